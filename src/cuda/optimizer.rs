//! Optimizer steps: parameters that look alike form groups, each with one launch for all of its parameters; one for each window,
//! where a step is taken part by part.
//!
//! What a call needs of its workspace: the tables of the groups; a sum, or two, for each chunk of 2048 elements and the levels
//! above; the trust ratios, and the scale that clipping makes.

use super::device::Queue;
use super::double_quantize::aligned;
use super::launch::{Args, Matrix};
use super::memory::Address;
use crate::error::Result;
use crate::format::optimizer::norms::CHUNK;
use crate::format::optimizer::{MAX_STATES, Optimizer, Scalars};
use crate::format::sum::FAN_IN;
use crate::kernels::KernelSpec;
use crate::kernels::optimizer::StepSpec;
use crate::kernels::optimizer::norms::{ReduceSpec, SquaresSpec};
use crate::kernels::optimizer::table::{Entry, Group, StateStorage, TableSpec, WORDS};
use crate::kernels::tensor::Layout;
use crate::view::window::{Piece, Plan};
use crate::view::{BufferMut, DType, Parameter, State};
use std::cell::RefCell;
use std::collections::HashSet;

/// Who moves the states of a step that is taken part by part.
pub trait Pages {
    /// Where what lies at this address is while the window is used.
    fn address(&self, _window: usize, address: u64) -> u64 {
        address
    }
    /// Work that uses the window's states will be enqueued. Windows come in order, in each of the passes.
    fn enter(&mut self, _queue: &Queue<'_>, _window: usize) -> Result<()> {
        Ok(())
    }
    /// It has been; whether it writes them.
    fn leave(&mut self, _queue: &Queue<'_>, _window: usize, _written: bool) -> Result<()> {
        Ok(())
    }
}

/// States that stay where they are.
impl Pages for () {}

/// Bytes of workspace, at any alignment; `None` if they do not fit 64 bits.
pub fn workspace_size(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Option<u64> {
    Places::new(optimizer, &Chunks::of(parameters), parameters, 0).end.checked_add(aligned(1))
}

/// How often a step goes through all windows.
pub fn passes(optimizer: &Optimizer) -> usize {
    if optimizer.rule.uses_norms() { 2 } else { 1 }
}

/// Enqueues a step of all parameters.
pub fn step(
    queue: &Queue<'_>,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
    plan: &Plan,
    pages: &mut impl Pages,
    kept: Option<&BufferMut<'_, u64>>,
    workspace: &BufferMut<'_, u8>,
) -> Result<()> {
    let chunks = Chunks::of(parameters);
    if chunks.elements == 0 {
        return Ok(());
    }
    let places = Places::new(optimizer, &chunks, parameters, workspace.address());
    let kept = kept.map_or(0, |kept| kept.address());
    let written = RefCell::default();
    let call = Call { queue, optimizer, parameters, plan, chunks, places, kept, written };
    call.prepare()?;
    if let Some(max_norm) = optimizer.max_norm {
        call.clip(max_norm)?;
    }
    if optimizer.rule.uses_norms() {
        call.trusts(pages)?;
    }
    call.step(pages)
}

/// How the parameters of a call are numbered in chunks.
struct Chunks {
    /// Before each parameter.
    before: Vec<u64>,
    all: u64,
    elements: u64,
}

impl Chunks {
    fn of(parameters: &[Parameter<'_>]) -> Self {
        let mut chunks = Self { before: Vec::with_capacity(parameters.len()), all: 0, elements: 0 };
        for parameter in parameters {
            let elements = parameter.elements() as u64;
            chunks.before.push(chunks.all);
            chunks.all += elements.div_ceil(CHUNK as u64);
            chunks.elements += elements;
        }
        chunks
    }
}

/// Where the parts of the workspace are.
struct Places {
    /// Tables, those of a window at a time.
    tables: u64,
    /// A trust ratio for each parameter.
    trusts: u64,
    sums: u64,
    scratch: u64,
    scale: u64,
    end: u64,
}

impl Places {
    fn new(optimizer: &Optimizer, chunks: &Chunks, parameters: &[Parameter<'_>], workspace: u64) -> Self {
        let mut end = aligned(workspace);
        let mut take = |bytes: usize| {
            let start = end;
            end = aligned(start + bytes as u64);
            start
        };
        let (norms, clips) = (optimizer.rule.uses_norms(), optimizer.max_norm.is_some());
        // A window has no more entries than there are parameters.
        let words: usize = parameters.iter().map(|parameter| group_of(optimizer, parameter).words()).sum();
        let tables = take(8 * words);
        let trusts = take(if norms { 4 * parameters.len() } else { 0 });
        let terms = if norms { 2 } else { usize::from(clips) };
        let sums = take(4 * terms * chunks.all as usize);
        let levels = if terms > 0 { chunks.all as usize / FAN_IN + parameters.len() + 1 } else { 0 };
        let scratch = take(4 * levels);
        let scale = take(if clips { 4 } else { 0 });
        Self { tables, trusts, sums, scratch, scale, end }
    }
}

fn group_of(optimizer: &Optimizer, Parameter { param, grad, states }: &Parameter<'_>) -> Group {
    let aligned = |address: u64, element: usize| address.is_multiple_of(4 * element as u64);
    let vectors = Matrix::is_contiguous(&param)
        && Matrix::is_contiguous(&grad)
        && aligned(param.address(), param.dtype().size())
        && aligned(grad.address(), grad.dtype().size())
        && states.iter().all(|state| match state {
            State::F32(values) => aligned(values.address(), DType::F32.size()),
            State::Blocks { codes, .. } => aligned(codes.address(), 1),
        });
    Group {
        dtypes: [param.dtype(), grad.dtype()],
        layout: if vectors { Layout::Vectors } else { Layout::Strided },
        storage: if matches!(states[0], State::F32(_)) { StateStorage::F32 } else { StateStorage::Blocks },
        states: optimizer.rule.states().len(),
    }
}

/// The parameters of a group, in the memory of the device.
struct Table {
    group: Group,
    address: u64,
    entries: u64,
    chunks: u64,
}

impl Table {
    /// Among a kernel's arguments.
    fn args(&self) -> Args {
        Args::new().number(self.address).number(self.entries).number(self.chunks)
    }
}

/// A call under way.
struct Call<'a> {
    queue: &'a Queue<'a>,
    optimizer: &'a Optimizer,
    parameters: &'a [Parameter<'a>],
    plan: &'a Plan,
    chunks: Chunks,
    places: Places,
    /// Where kept elements are counted, or null.
    kept: u64,
    /// The words of the tables that are there.
    written: RefCell<Vec<u64>>,
}

impl Call<'_> {
    /// Writes the tables of some pieces, over those that are there unless they are the same: work that is enqueued later uses
    /// them. States are where `address` says.
    fn tables(&self, pieces: &[Piece], address: impl Fn(u64) -> u64) -> Result<Vec<Table>> {
        let mut groups: Vec<(Group, Vec<u64>, u64)> = Vec::new();
        for piece in pieces {
            let group = group_of(self.optimizer, &self.parameters[piece.parameter]);
            let at = groups.iter().position(|(other, ..)| *other == group).unwrap_or_else(|| {
                groups.push((group, Vec::new(), 0));
                groups.len() - 1
            });
            let (_, words, chunks) = &mut groups[at];
            words.extend(group.pack(&self.entry(piece, *chunks, &address)));
            *chunks += piece.elements.len().div_ceil(CHUNK) as u64;
        }
        let (mut all, mut tables) = (Vec::new(), Vec::with_capacity(groups.len()));
        for (group, words, chunks) in groups {
            let address = self.places.tables + 8 * all.len() as u64;
            tables.push(Table { group, address, entries: (words.len() / group.words()) as u64, chunks });
            all.extend(words);
        }
        if *self.written.borrow() != all {
            for (i, words) in all.chunks(WORDS).enumerate() {
                let to = self.places.tables + (8 * i * WORDS) as u64;
                let args = Args::new().number(to).number(words.len() as u64).block(words, WORDS);
                self.queue.launch(TableSpec.into(), 1, args)?;
            }
            *self.written.borrow_mut() = all;
        }
        Ok(tables)
    }

    fn entry(&self, piece: &Piece, first: u64, address: impl Fn(u64) -> u64) -> Entry {
        let parameter = &self.parameters[piece.parameter];
        let Parameter { param, grad, states } = parameter;
        let mut areas = parameter.areas();
        // What lies elsewhere is the piece's alone: counted back from there, the parameter's first element may lie anywhere.
        let mut next = || {
            let area = areas.next().expect("an area for each part of a state");
            let start = area.bytes(&piece.elements).start;
            address(start as u64).wrapping_sub((start - area.address) as u64)
        };
        let (mut values, mut absmaxes) = ([0; MAX_STATES], [0; MAX_STATES]);
        for (i, state) in states.iter().enumerate() {
            values[i] = next();
            if let State::Blocks { .. } = state {
                absmaxes[i] = next();
            }
        }
        Entry {
            first,
            elements: piece.elements.end as u64,
            chunk: self.chunks.before[piece.parameter],
            skipped: (piece.elements.start / CHUNK) as u64,
            number: piece.parameter as u64,
            matrices: [param.address(), grad.address()],
            rows: [Matrix::cols(&param), Matrix::row_stride(&param), Matrix::row_stride(&grad)],
            states: values,
            absmax: absmaxes,
        }
    }

    /// Compiles all kernels of the call: nothing has been enqueued yet if there is no memory for one.
    fn prepare(&self) -> Result<()> {
        let some = self.parameters.iter().filter(|parameter| parameter.elements() > 0);
        let groups: HashSet<Group> = some.map(|parameter| group_of(self.optimizer, parameter)).collect();
        let norms = self.optimizer.rule.uses_norms();
        let mut specs: Vec<KernelSpec> = vec![TableSpec.into()];
        if self.optimizer.max_norm.is_some() {
            specs.push(ReduceSpec::Clip.into());
            specs.extend(groups.iter().map(|&group| gradients(group).into()));
        }
        for &group in &groups {
            specs.push(self.step_spec(group).into());
            if norms {
                specs.push(self.terms(group).into());
                specs.push(self.trust(group).into());
            }
        }
        specs.into_iter().try_for_each(|spec| self.queue.function(spec).map(drop))
    }

    fn step_spec(&self, group: Group) -> StepSpec {
        let Optimizer { rule, max_norm, .. } = *self.optimizer;
        StepSpec { group, rule, clipped: max_norm.is_some(), stochastic: self.seed(group).is_some() }
    }

    /// The seed of parameters that are rounded at random.
    fn seed(&self, group: Group) -> Option<u64> {
        self.optimizer.seed.filter(|_| group.dtypes[0] == DType::Bf16)
    }

    fn terms(&self, group: Group) -> SquaresSpec {
        let Optimizer { rule, max_norm, .. } = *self.optimizer;
        SquaresSpec { group, rule: Some(rule), clipped: max_norm.is_some() }
    }

    fn trust(&self, group: Group) -> ReduceSpec {
        ReduceSpec::Trust(group, self.optimizer.rule)
    }

    /// The tables of whole parameters, of which no states are looked at.
    fn whole(&self) -> Result<Vec<Table>> {
        self.tables(&Plan::whole(self.parameters).staying, |address| address)
    }

    /// Enqueues what `work` does with the tables of each window.
    fn for_each_window<P: Pages>(
        &self,
        pages: &mut P,
        written: bool,
        work: impl Fn(&Table) -> Result<()>,
    ) -> Result<()> {
        for (window, pieces) in self.plan.windows().enumerate() {
            pages.enter(self.queue, window)?;
            let tables = self.tables(pieces, |address| pages.address(window, address))?;
            tables.iter().try_for_each(&work)?;
            pages.leave(self.queue, window, written)?;
        }
        Ok(())
    }

    fn scale(&self, args: Args) -> Args {
        if self.optimizer.max_norm.is_some() { args.number(self.places.scale) } else { args }
    }

    /// The scale of the gradients of all groups.
    fn clip(&self, max_norm: f32) -> Result<()> {
        let (places, scalars) = (&self.places, self.optimizer.scalars());
        for table in self.whole()? {
            let args = with_scalars(table.args().number(places.sums).number(0), &scalars);
            self.queue.launch(gradients(table.group).into(), table.chunks, args)?;
        }
        let args = Args::new().number(places.sums).number(self.chunks.all).number(places.scratch);
        let args = [scalars.grad_scale, max_norm].into_iter().fold(args, Args::float);
        let args = args.number(places.scale).number(self.kept).number(self.chunks.elements);
        self.queue.launch(ReduceSpec::Clip.into(), 1, args)
    }

    /// The trust ratio of each parameter.
    fn trusts(&self, pages: &mut impl Pages) -> Result<()> {
        let (places, scalars) = (&self.places, self.optimizer.scalars());
        self.for_each_window(pages, false, |table| {
            let args = self.scale(table.args()).number(places.sums).number(self.chunks.all);
            self.queue.launch(self.terms(table.group).into(), table.chunks, with_scalars(args, &scalars))
        })?;
        for table in self.whole()? {
            let args = table.args().number(places.sums).number(self.chunks.all).number(places.scratch);
            let args = with_scalars(args.number(places.trusts), &scalars);
            self.queue.launch(self.trust(table.group).into(), table.entries, args)?;
        }
        Ok(())
    }

    fn step(&self, pages: &mut impl Pages) -> Result<()> {
        let (optimizer, scalars) = (self.optimizer, self.optimizer.scalars());
        self.for_each_window(pages, true, |table| {
            let mut args = self.scale(table.args().number(self.kept));
            if optimizer.rule.uses_norms() {
                args = args.number(self.places.trusts);
            }
            if let Some(seed) = self.seed(table.group) {
                args = args.number(seed).number(optimizer.hyper.step);
            }
            self.queue.launch(self.step_spec(table.group).into(), table.chunks, with_scalars(args, &scalars))
        })
    }
}

/// The squares of a group's gradients.
fn gradients(group: Group) -> SquaresSpec {
    SquaresSpec { group, rule: None, clipped: false }
}

fn with_scalars(args: Args, scalars: &Scalars<f32>) -> Args {
    scalars.all().into_iter().fold(args, Args::float)
}
