//! Cgroups, namespaces and processes for tests on a real kernel.
