//! Optimizer steps: parameters that look alike form groups, each with one launch for all of its parameters.
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
use crate::kernels::optimizer::StepSpec;
use crate::kernels::optimizer::norms::{ReduceSpec, SquaresSpec};
use crate::kernels::optimizer::table::{Entry, Group, StateStorage, TableSpec, WORDS};
use crate::kernels::tensor::Layout;
use crate::view::{BufferMut, DType, Parameter, State};

/// Bytes of workspace, at any alignment; `None` if they do not fit 64 bits.
pub fn workspace_size(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Option<u64> {
    let plan = Plan::new(optimizer, parameters);
    plan.place(optimizer, 0).end.checked_add(aligned(1))
}

/// Enqueues a step of all parameters.
pub fn step(
    queue: &Queue<'_>,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
    kept: Option<&BufferMut<'_, u64>>,
    workspace: &BufferMut<'_, u8>,
) -> Result<()> {
    let plan = Plan::new(optimizer, parameters);
    if plan.elements == 0 {
        return Ok(());
    }
    let places = plan.place(optimizer, workspace.address());
    let call = Call { queue, optimizer, plan: &plan, places, kept: kept.map_or(0, |kept| kept.address()) };
    call.write_tables()?;
    if let Some(max_norm) = optimizer.max_norm {
        call.clip(max_norm)?;
    }
    (0..plan.groups.len()).try_for_each(|group| call.step(group))
}

/// The groups of a call.
struct Plan {
    groups: Vec<(Group, Vec<Entry>)>,
    chunks: u64,
    elements: u64,
}

/// Where the parts of the workspace are.
struct Places {
    /// The table of each group.
    tables: Vec<u64>,
    /// The trust ratios of each group.
    trusts: Vec<u64>,
    sums: u64,
    scratch: u64,
    scale: u64,
    end: u64,
}

impl Plan {
    fn new(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Self {
        let mut plan = Self { groups: Vec::new(), chunks: 0, elements: 0 };
        for (number, parameter) in parameters.iter().enumerate() {
            let elements = (parameter.param.rows() * parameter.param.cols()) as u64;
            if elements == 0 {
                continue;
            }
            let group = group_of(optimizer, parameter);
            let at = plan.groups.iter().position(|(other, _)| *other == group).unwrap_or_else(|| {
                plan.groups.push((group, Vec::new()));
                plan.groups.len() - 1
            });
            let entries = &mut plan.groups[at].1;
            let first = entries.last().map_or(0, |last: &Entry| last.first + chunks(last.elements));
            entries.push(entry(parameter, elements, first, plan.chunks, number));
            plan.chunks += chunks(elements);
            plan.elements += elements;
        }
        plan
    }

    fn place(&self, optimizer: &Optimizer, workspace: u64) -> Places {
        let mut end = aligned(workspace);
        let mut take = |bytes: usize| {
            let start = end;
            end = aligned(start + bytes as u64);
            start
        };
        let tables = self.groups.iter().map(|(group, entries)| take(8 * group.words() * entries.len()));
        let tables = tables.collect();
        let (norms, clips) = (optimizer.rule.uses_norms(), optimizer.max_norm.is_some());
        let trusts = self.groups.iter().map(|(_, entries)| if norms { take(4 * entries.len()) } else { 0 });
        let trusts = trusts.collect();
        let terms = if norms { 2 } else { usize::from(clips) };
        let sums = take(4 * terms * self.chunks as usize);
        let entries: usize = self.groups.iter().map(|(_, entries)| entries.len()).sum();
        let levels = if terms > 0 { self.chunks as usize / FAN_IN + entries + 1 } else { 0 };
        let scratch = take(4 * levels);
        let scale = take(if clips { 4 } else { 0 });
        Places { tables, trusts, sums, scratch, scale, end }
    }
}

fn chunks(elements: u64) -> u64 {
    elements.div_ceil(CHUNK as u64)
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

fn entry(parameter: &Parameter<'_>, elements: u64, first: u64, chunk: u64, number: usize) -> Entry {
    let Parameter { param, grad, states } = parameter;
    let (mut values, mut absmaxes) = ([0; MAX_STATES], [0; MAX_STATES]);
    for (i, state) in states.iter().enumerate() {
        match state {
            State::F32(state) => values[i] = state.address(),
            State::Blocks { codes, absmax } => (values[i], absmaxes[i]) = (codes.address(), absmax.address()),
        }
    }
    Entry {
        first,
        elements,
        chunk,
        number: number as u64,
        matrices: [param.address(), grad.address()],
        rows: [Matrix::cols(&param), Matrix::row_stride(&param), Matrix::row_stride(&grad)],
        states: values,
        absmax: absmaxes,
    }
}

/// A call under way.
struct Call<'a> {
    queue: &'a Queue<'a>,
    optimizer: &'a Optimizer,
    plan: &'a Plan,
    places: Places,
    /// Where kept elements are counted, or null.
    kept: u64,
}

impl Call<'_> {
    fn write_tables(&self) -> Result<()> {
        for ((group, entries), &table) in self.plan.groups.iter().zip(&self.places.tables) {
            let words: Vec<u64> = entries.iter().flat_map(|entry| group.pack(entry)).collect();
            for (i, words) in words.chunks(WORDS).enumerate() {
                let to = table + (8 * i * WORDS) as u64;
                let args = Args::new().number(to).number(words.len() as u64).block(words, WORDS);
                self.queue.launch(TableSpec.into(), 1, args)?;
            }
        }
        Ok(())
    }

    /// A group's table among a kernel's arguments, and how many chunks it has.
    fn table(&self, group: usize) -> (Args, u64) {
        let entries = &self.plan.groups[group].1;
        let last = entries.last().expect("groups have entries");
        let chunks = last.first + chunks(last.elements);
        let args = Args::new().number(self.places.tables[group]);
        (args.number(entries.len() as u64).number(chunks), chunks)
    }

    fn scale(&self, args: Args) -> Args {
        if self.optimizer.max_norm.is_some() { args.number(self.places.scale) } else { args }
    }

    /// The scale of the gradients of all groups.
    fn clip(&self, max_norm: f32) -> Result<()> {
        let (plan, places, scalars) = (self.plan, &self.places, self.optimizer.scalars());
        for (i, &(group, _)) in plan.groups.iter().enumerate() {
            let (args, chunks) = self.table(i);
            let args = with_scalars(args.number(places.sums).number(0), &scalars);
            self.queue.launch(SquaresSpec { group, rule: None, clipped: false }.into(), chunks, args)?;
        }
        let args = Args::new().number(places.sums).number(plan.chunks).number(places.scratch);
        let args = [scalars.grad_scale, max_norm].into_iter().fold(args, Args::float);
        let args = args.number(places.scale).number(self.kept).number(plan.elements);
        self.queue.launch(ReduceSpec::Clip.into(), 1, args)
    }

    fn step(&self, index: usize) -> Result<()> {
        let (optimizer, places, scalars) = (self.optimizer, &self.places, self.optimizer.scalars());
        let (rule, clipped) = (optimizer.rule, optimizer.max_norm.is_some());
        let (group, entries) = &self.plan.groups[index];
        let (group, entries) = (*group, entries.len() as u64);
        if rule.uses_norms() {
            let (args, chunks) = self.table(index);
            let args = self.scale(args).number(places.sums).number(self.plan.chunks);
            let spec = SquaresSpec { group, rule: Some(rule), clipped };
            self.queue.launch(spec.into(), chunks, with_scalars(args, &scalars))?;
            let args =
                self.table(index).0.number(places.sums).number(self.plan.chunks).number(places.scratch);
            let args = with_scalars(args.number(places.trusts[index]), &scalars);
            self.queue.launch(ReduceSpec::Trust(group, rule).into(), entries, args)?;
        }
        let seed = optimizer.seed.filter(|_| group.dtypes[0] == DType::Bf16);
        let (args, chunks) = self.table(index);
        let mut args = self.scale(args.number(self.kept));
        if rule.uses_norms() {
            args = args.number(places.trusts[index]);
        }
        if let Some(seed) = seed {
            args = args.number(seed).number(optimizer.hyper.step);
        }
        let spec = StepSpec { group, rule, clipped, stochastic: seed.is_some() };
        self.queue.launch(spec.into(), chunks, with_scalars(args, &scalars))
    }
}

fn with_scalars(args: Args, scalars: &Scalars<f32>) -> Args {
    scalars.all().into_iter().fold(args, Args::float)
}
