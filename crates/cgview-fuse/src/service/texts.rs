//! What a file says to whom, and what happens where that cannot be told.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use cgview_core::{
    CpuinfoOutline, Explanation, HostFacts, Snapshot, Usec, View,
    cpu_view::CpuView,
    effective::CpuLimits,
    loadavg::LoadAverage,
    tree::{Entry, File, ProcFile},
    view::{Parts, Reader},
};
use cgview_host::Host;

use super::{Error, Explained, Service};
use crate::{
    cache::FetchedText,
    metrics::Outcome,
    settings::{OnError, ViewSettings},
    tenant::{Rendered, Tenant},
    told::Fetched,
};

impl Service {
    /// What a thread is told by a file, by the policy for failures too.
    ///
    /// # Errors
    ///
    /// [`Error`], where the policy has no other answer.
    pub fn text(&self, tid: u32, file: File) -> Result<Vec<u8>, Error> {
        self.text_of(tid, None, file).map(|text| text.to_vec())
    }

    /// The same, of a caller that may be known already.
    pub(crate) fn text_of(
        &self,
        tid: u32,
        caller: Option<&cgview_host::Caller>,
        file: File,
    ) -> Result<Arc<[u8]>, Error> {
        self.text_by(*self.settings.read(), tid, caller, file)
    }

    /// What a caller that is known is told by a file, from numbers that are not older than `age`.
    pub(crate) fn text_within(
        &self,
        caller: &cgview_host::Caller,
        file: File,
        age: Duration,
    ) -> Result<Arc<[u8]>, Error> {
        let settings = *self.settings.read();
        let settings = ViewSettings { freshness: settings.freshness.min(age), ..settings };
        self.text_by(settings, 0, Some(caller), file)
    }

    fn text_by(
        &self,
        settings: ViewSettings,
        tid: u32,
        caller: Option<&cgview_host::Caller>,
        file: File,
    ) -> Result<Arc<[u8]>, Error> {
        let error = match self.render(tid, caller, file, settings) {
            Ok(text) => return Ok(text),
            Err(error @ Error::View(_)) => return Err(error),
            Err(error) => error,
        };
        if settings.on_error == OnError::Host
            && let Ok(text) = self.host_text(file, settings)
        {
            self.report(file, &error, Outcome::Host);
            return Ok(text);
        }
        self.report(file, &error, Outcome::Fail);
        Err(error)
    }

    /// What a reader gets for `error` without that the kernel is asked: by the policy for failures, what the
    /// container was told before. A failure is reported if it is the last word.
    pub(crate) fn text_without_asking(
        &self,
        caller: Option<&cgview_host::Caller>,
        file: File,
        error: Error,
        is_last: bool,
    ) -> Result<Arc<[u8]>, Error> {
        let settings = *self.settings.read();
        let (text, outcome) = match settings.on_error {
            OnError::Stale => {
                let text = caller.and_then(|caller| self.known_text(caller, file, settings));
                (text, Outcome::Stale)
            }
            OnError::Host => {
                let path = Entry::File(file).path();
                (self.texts.stale(&path).map(|text| text.value), Outcome::Host)
            }
            OnError::Fail => (None, Outcome::Fail),
        };
        if text.is_some() || is_last {
            self.report(file, &error, if text.is_some() { outcome } else { Outcome::Fail });
        }
        text.ok_or(error)
    }

    /// What a file says by what is known, of whatever age.
    fn known_text(
        &self,
        caller: &cgview_host::Caller,
        file: File,
        settings: ViewSettings,
    ) -> Option<Arc<[u8]>> {
        if self.is_passed_through(caller, file, settings) {
            return Some(self.texts.stale(&Entry::File(file).path())?.value);
        }
        let tenant = self.tenants.known(&caller.container)?;
        let mut ready = self.prepare_known(&tenant, file.parts(), settings)?;
        self.look_at_clock(file, &mut ready);
        let path = ready.view(&ready.no_times, None, caller.reader).host_path(Entry::File(file))?;
        let host = HostText::from(self.texts.stale(&path)?);
        let load = match wants_load(file) && settings.policy.loadavg {
            true => Some(tenant.last_load()?),
            false => None,
        };
        let (text, _) = self.with_view(&tenant, &ready, caller.reader, load.as_ref(), |view| {
            rendered(view, file, &host).ok()
        });
        text
    }

    /// What a thread is told by a file, and why.
    ///
    /// # Errors
    ///
    /// [`Error`], whatever the policy for failures is.
    pub fn explain(&self, tid: u32, file: File) -> Result<Explained, Error> {
        let settings = ViewSettings { on_error: OnError::Fail, ..*self.settings.read() };
        let caller = self.find_by(settings, tid)?;
        if self.is_passed_through(&caller, file, settings) {
            let host = self.host_text(file, settings)?;
            return Ok(Explained {
                text: host.to_vec(),
                explanation: Explanation::default(),
                snapshot: Arc::default(),
                host,
            });
        }
        let tenant = self.tenants.get(&caller.container, || self.now());
        let mut ready = self.prepare(&tenant, file, file.parts(), settings)?;
        self.look_at_clock(file, &mut ready);
        let host = self.host_text_of(&ready, caller.reader, file)?.text.value;
        let explain = |view: &View<'_>| {
            let mut text = Vec::with_capacity(host.len());
            let explanation = view.explain(file, &host, &mut text)?;
            let snapshot = Arc::clone(&ready.snapshot);
            Ok(Explained { text, explanation, snapshot, host: Arc::clone(&host) })
        };
        let load = self.load(&tenant, &ready, file)?;
        self.with_view(&tenant, &ready, caller.reader, load.as_ref(), explain).0
    }

    fn render(
        &self,
        tid: u32,
        caller: Option<&cgview_host::Caller>,
        file: File,
        settings: ViewSettings,
    ) -> Result<Arc<[u8]>, Error> {
        let render = |caller: &cgview_host::Caller| self.render_once(caller, file, settings);
        let find = || match caller {
            // Nobody is to be found by a number.
            Some(caller) if tid == 0 => render(caller),
            _ => self.find_by(settings, tid).and_then(|caller| render(&caller)),
        };
        self.or_again(tid, caller.map_or_else(find, render), find)
    }

    /// Asks once more where that is of use.
    fn or_again<T>(
        &self,
        tid: u32,
        first: Result<T, Error>,
        again: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &first {
            // The container moved to other cgroups, and its old ones are gone.
            Err(Error::Host(cgview_host::Error::Vanished { .. })) if tid != 0 => {
                self.callers.forget(tid)
            }
            Err(error @ Error::Host(cause)) if cause.is_out_of_descriptors() => {
                self.relieve(error);
            }
            _ => return first,
        }
        again()
    }

    fn render_once(
        &self,
        caller: &cgview_host::Caller,
        file: File,
        settings: ViewSettings,
    ) -> Result<Arc<[u8]>, Error> {
        if self.is_passed_through(caller, file, settings) {
            return self.host_text(file, settings);
        }
        #[cfg(any(test, feature = "other-version"))]
        if let Some(fault) = *self.fault.lock() {
            fault(file);
        }
        let tenant = self.tenants.get(&caller.container, || self.now());
        let what = match file {
            File::Proc(file) => {
                Some(Rendered { file, reader: caller.reader, policy: settings.policy })
            }
            File::Sys(_) => None,
        };
        if let Some(text) =
            what.and_then(|what| tenant.rendered(&what, settings.freshness, || self.host.clock()))
        {
            self.metrics.renderings.hits.inc();
            return Ok(text);
        }
        self.metrics.renderings.misses.inc();
        let mut ready = self
            .prepare(&tenant, file, file.parts(), settings)
            .inspect_err(|error| self.forget_if_gone(&tenant, error))?;
        self.look_at_clock(file, &mut ready);
        let host = self.host_text_of(&ready, caller.reader, file)?;
        let load = self.load(&tenant, &ready, file)?;
        let (text, version) =
            self.with_view(&tenant, &ready, caller.reader, load.as_ref(), |view| {
                rendered(view, file, &host)
            });
        let text = text?;
        if let Some(what) = what.filter(|_| text.len() <= LONGEST_RENDERING) {
            let at = ready.at.min(host.text.at);
            let made_of = [ready.sampled, host.text.at];
            let until =
                ready.ticking.then(|| ready.view(&ready.no_times, None, caller.reader).next_tick());
            let kept = Fetched { at, value: Arc::clone(&text) };
            tenant.keep_rendered(what, kept, made_of, version, until);
            self.count_rendered(&text, settings.freshness);
        }
        Ok(text)
    }

    /// The caller behind a thread id.
    pub(crate) fn find(&self, tid: u32) -> Result<cgview_host::Caller, Error> {
        self.find_by(*self.settings.read(), tid)
    }

    fn find_by(&self, settings: ViewSettings, tid: u32) -> Result<cgview_host::Caller, Error> {
        if tid == 0 {
            return Err(Error::NoCaller);
        }
        Ok(self.callers.get(&self.host, tid, &settings, &self.metrics.callers)?)
    }

    /// The CPUs and nodes of a caller's container. `None` if it is the host, or nobody that is known.
    ///
    /// # Errors
    ///
    /// [`Error`], if its container cannot be told for now, and the policy is not to take it for the host then.
    pub(super) fn container_of(&self, tid: u32) -> Result<Option<Prepared>, Error> {
        if self.off.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let settings = *self.settings.read();
        let file = File::Proc(ProcFile::Cpuinfo);
        let find = || {
            let caller = match self.find_by(settings, tid) {
                Ok(caller) if !caller.container.is_host() => caller,
                Ok(_) | Err(Error::NoCaller) => return Ok(None),
                Err(Error::Host(error)) if error.is_about_caller() => return Ok(None),
                Err(error) => return Err(error),
            };
            let tenant = self.tenants.get(&caller.container, || self.now());
            self.prepare(&tenant, file, Parts::NODES, settings).map(Some)
        };
        match self.or_again(tid, find(), find) {
            Err(error) if settings.on_error == OnError::Host => {
                self.report(file, &error, Outcome::Host);
                Ok(None)
            }
            Err(error) => {
                self.report(file, &error, Outcome::Fail);
                Err(error)
            }
            found => found,
        }
    }

    /// The CPUs and nodes of a caller's container as they were when they were looked at last.
    pub(super) fn known_container(&self, caller: &cgview_host::Caller) -> Option<Prepared> {
        if self.off.load(Ordering::Relaxed) || caller.container.is_host() {
            return None;
        }
        let tenant = self.tenants.known(&caller.container)?;
        self.prepare_known(&tenant, Parts::NODES, *self.settings.read())
    }

    fn is_passed_through(
        &self,
        caller: &cgview_host::Caller,
        file: File,
        settings: ViewSettings,
    ) -> bool {
        let passed = |file: ProcFile| settings.policy.passthrough.contains(file);
        caller.container.is_host()
            || self.off.load(Ordering::Relaxed)
            || matches!(file, File::Proc(file) if passed(file))
    }

    /// The host's own text of a file.
    fn host_text(&self, file: File, settings: ViewSettings) -> Result<Arc<[u8]>, Error> {
        let path = Entry::File(file).path();
        let settings = ViewSettings { freshness: freshness(file, settings), ..settings };
        let counters = &self.metrics.host_reads;
        let text = self.texts.get(&self.host, (file, &path), true, &settings, counters);
        let known = || self.texts.stale(&path);
        let text = text.or_else(|error| self.stale(file, error.into(), settings, known))?;
        Ok(text.value)
    }

    /// The host's text that a container's is made from.
    fn host_text_of(
        &self,
        ready: &Prepared,
        reader: Reader,
        file: File,
    ) -> Result<HostText, Error> {
        // Which file that is depends on the CPUs, and not on their times.
        let path = ready.view(&ready.no_times, None, reader).host_path(Entry::File(file));
        let path = path.ok_or(cgview_core::view::Error::NotShown)?;
        let (host, texts, mut settings) = (&self.host, &self.texts, ready.settings);
        let whole_host = ready.cpus.is_whole_host(&ready.snapshot, &ready.facts);
        if whole_host {
            settings.freshness = freshness(file, settings);
        }
        let settings = &settings;
        let counters = &self.metrics.host_reads;
        let text = match file {
            File::Proc(ProcFile::Cpuinfo) => {
                let outlined = texts.cpuinfo(host, &path, &ready.facts.online, settings, counters);
                outlined
                    .map(|(text, outline)| HostText { text, outline: Outline::Cpuinfo(outline) })
            }
            File::Proc(ProcFile::Stat) if !whole_host => {
                let outlined = texts.stat(host, &path, settings, counters);
                outlined.map(|(text, outline)| HostText { text, outline: Outline::Stat(outline) })
            }
            _ => texts.get(host, (file, &path), false, settings, counters).map(HostText::from),
        };
        text.or_else(|error| {
            self.stale(file, error.into(), *settings, || texts.stale(&path).map(HostText::from))
        })
    }

    /// All that `file`, or another one with these parts, is made from.
    pub(super) fn prepare(
        &self,
        tenant: &Tenant,
        file: File,
        parts: Parts,
        settings: ViewSettings,
    ) -> Result<Prepared, Error> {
        let with_memory = parts.contain(Parts::MEMORY);
        let facts = self
            .texts
            .facts(&self.host, with_memory, &settings, &self.metrics.host_reads)
            .or_else(|error| {
                self.stale(file, error.into(), settings, || self.texts.stale_facts())
            })?;
        let snapshot = tenant
            .sample(&self.host, parts, &settings, &self.metrics)
            .or_else(|error| self.stale(file, error.into(), settings, || tenant.stale(parts)))?;
        Ok(Prepared::of(settings, facts, snapshot, parts))
    }

    /// The same by what is known, of whatever age. `None` if not all of it is.
    fn prepare_known(
        &self,
        tenant: &Tenant,
        parts: Parts,
        settings: ViewSettings,
    ) -> Option<Prepared> {
        let facts = self.texts.stale_facts()?;
        let snapshot = tenant.stale(parts)?;
        Some(Prepared::of(settings, facts, snapshot, parts))
    }

    /// Has a text that tells the time tell what it is now, however old its numbers are.
    fn look_at_clock(&self, file: File, ready: &mut Prepared) {
        if file == UPTIME
            && let Some(now) = self.host.clock()
        {
            (ready.now, ready.ticking) = (now, true);
        }
    }

    /// What was known before, in place of what cannot be known now, if the policy allows.
    fn stale<T>(
        &self,
        file: File,
        error: Error,
        settings: ViewSettings,
        known: impl FnOnce() -> Option<T>,
    ) -> Result<T, Error> {
        // What is gone was perhaps replaced by something else.
        let gone = matches!(&error, Error::Host(error) if error.is_gone());
        if gone || settings.on_error != OnError::Stale {
            return Err(error);
        }
        let Some(value) = known() else { return Err(error) };
        self.relieve(&error);
        self.report(file, &error, Outcome::Stale);
        Ok(value)
    }

    /// The load average that `file` shows, if it shows one.
    fn load(
        &self,
        tenant: &Tenant,
        ready: &Prepared,
        file: File,
    ) -> Result<Option<LoadAverage>, Error> {
        if !wants_load(file) || !ready.settings.policy.loadavg {
            return Ok(None);
        }
        let load = ready.load(&self.host, tenant, true).or_else(|error| {
            self.stale(file, error.into(), ready.settings, || tenant.last_load())
        })?;
        self.keep_load(tenant);
        Ok(Some(load))
    }

    /// Lends the view that is made of all that. The kernel is not to be asked meanwhile: other readers of the
    /// container's CPU times wait. Returns which version of them it was, too, if they were needed.
    fn with_view<T>(
        &self,
        tenant: &Tenant,
        ready: &Prepared,
        reader: Reader,
        load: Option<&LoadAverage>,
        render: impl FnOnce(&View<'_>) -> T,
    ) -> (T, Option<u64>) {
        if !ready.parts.contain(Parts::CPU_USAGE) {
            return (render(&ready.view(&ready.no_times, load, reader)), None);
        }
        let steal = ready.settings.policy.steal;
        let save = |cpu_view: &CpuView| self.keep_cpu(tenant, ready.snapshot.taken, cpu_view);
        let render = |cpu_view: &CpuView| render(&ready.view(cpu_view, load, reader));
        let (rendered, version) =
            tenant.with_cpu_view(&ready.snapshot, &ready.cpus, steal, save, render);
        (rendered, Some(version))
    }

    pub(super) fn forget_if_gone(&self, tenant: &Tenant, error: &Error) {
        if matches!(error, Error::Host(error) if error.is_gone()) {
            self.tenants.remove(tenant);
            self.forget_kept(tenant.container().id().as_str());
        }
    }

    /// Counts a failure, and logs it once in a while.
    pub(super) fn report(&self, file: File, error: &Error, outcome: Outcome) {
        let cause = error.cause();
        self.metrics.error(cause, outcome);
        let chain = Chain(error);
        let path = Entry::File(file).path();
        // Processes end while they read; that is nothing to look at.
        if cause == "gone" {
            tracing::debug!("cannot show {path}: {chain}");
            return;
        }
        let Some(more) = self.warnings.pass((cause, file)) else { return };
        let got = match outcome {
            Outcome::Stale => "the numbers of before",
            Outcome::Fail => "an error",
            Outcome::Host => "the host's file",
        };
        if more == 0 {
            tracing::warn!("cannot show {path}: {chain}; the reader got {got}");
        } else {
            tracing::warn!("cannot show {path}: {chain}; the reader got {got}, as {more} before");
        }
    }
}

/// All that a view is made from, but the CPU times.
#[derive(Debug)]
pub(super) struct Prepared {
    settings: ViewSettings,
    facts: Arc<HostFacts>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) cpus: CpuLimits,
    parts: Parts,
    /// The clock, in whose past the snapshot was taken, and whether it was looked at anew.
    now: Usec,
    ticking: bool,
    /// When the snapshot was new, and when the older one of facts and snapshot was.
    sampled: Instant,
    at: Instant,
    /// For what does not depend on the CPU times.
    no_times: CpuView,
}

/// The host's text that a container's is made from, with its outline where that is kept.
struct HostText {
    text: FetchedText,
    outline: Outline,
}

enum Outline {
    None,
    Cpuinfo(Arc<CpuinfoOutline>),
    Stat(Arc<[u8]>),
}

impl From<FetchedText> for HostText {
    fn from(text: FetchedText) -> HostText {
        HostText { text, outline: Outline::None }
    }
}

/// A longer text is not kept for the next reader.
const LONGEST_RENDERING: usize = 64 << 10;

thread_local! {
    /// Where texts are rendered to: one buffer for each thread, grown once.
    static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What `file` says.
fn rendered(
    view: &View<'_>,
    file: File,
    host: &HostText,
) -> Result<Arc<[u8]>, cgview_core::view::Error> {
    let mut text = TEXT.take();
    text.clear();
    let rendered = match &host.outline {
        Outline::Cpuinfo(outline) => {
            view.render_cpuinfo(&host.text.value, outline, &mut text);
            Ok(())
        }
        Outline::Stat(outline) => view.render(file, outline, &mut text),
        Outline::None => view.render(file, &host.text.value, &mut text),
    };
    let rendered = rendered.map(|()| Arc::from(&*text));
    TEXT.set(text);
    rendered
}

impl Prepared {
    fn of(
        settings: ViewSettings,
        facts: Fetched<Arc<HostFacts>>,
        snapshot: Fetched<Arc<Snapshot>>,
        parts: Parts,
    ) -> Prepared {
        let sampled = snapshot.at;
        let at = facts.at.min(sampled);
        let (facts, snapshot) = (facts.value, snapshot.value);
        let cpus = CpuLimits::of(&snapshot, &facts, &settings.policy);
        Prepared {
            settings,
            facts,
            now: snapshot.taken,
            ticking: false,
            snapshot,
            cpus,
            parts,
            sampled,
            at,
            no_times: CpuView::default(),
        }
    }

    /// A view for whoever asks which entries there are, and not what files say.
    pub(super) fn entries(&self) -> View<'_> {
        self.view(&self.no_times, None, Reader::default())
    }

    /// The load average of the container, which the snapshot has the tasks of.
    pub(super) fn load(
        &self,
        host: &Host,
        tenant: &Tenant,
        asked: bool,
    ) -> cgview_host::Result<LoadAverage> {
        let cpus =
            |cpus: &Snapshot| CpuLimits::of(cpus, &self.facts, &self.settings.policy).visible.len();
        tenant.load(host, &self.snapshot, asked, cpus)
    }

    fn view<'a>(
        &'a self,
        cpu_view: &'a CpuView,
        load: Option<&'a LoadAverage>,
        reader: Reader,
    ) -> View<'a> {
        View {
            snapshot: &self.snapshot,
            now: self.now,
            host: &self.facts,
            policy: &self.settings.policy,
            cpus: &self.cpus,
            cpu_view,
            load,
            reader,
        }
    }
}

const UPTIME: File = File::Proc(ProcFile::Uptime);

/// How old the host's text may be that a text is copied from.
fn freshness(file: File, settings: ViewSettings) -> Duration {
    if file == UPTIME { Duration::ZERO } else { settings.freshness }
}

/// Whether a file shows the load average.
fn wants_load(file: File) -> bool {
    file == File::Proc(ProcFile::Loadavg)
}

/// An error with all its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
