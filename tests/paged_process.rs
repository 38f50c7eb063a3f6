//! Paged states in a file, seen from outside the process: its resident memory, its sudden end, its folder, a full disk.
//!
//! Tests start this program again with only [`child`] to be run, which does what [`ROLE`] says: no shell, nothing else to build.
#![cfg(target_os = "linux")]

use half::bf16;
use qlora_kernels::ops::{
    PagedBuffer, optimizer_states_restore, optimizer_states_save, optimizer_states_size, optimizer_step,
    optimizer_step_paged,
};
use qlora_kernels::{
    Context, Optimizer, Pager, PagerKind, PagerOptions, Parameter, Rule, State, Status, Tensor, TensorMut,
};
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const ROLE: &str = "QLK_TEST_ROLE";
const FOLDER: &str = "QLK_TEST_FOLDER";
const BUDGET: &str = "QLK_TEST_BUDGET";
const MIB: u64 = 1 << 20;

/// A folder on the file system of the build, which is a disk's even where the system's folder of temporary files is not.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paged_process").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// This program in a role, perhaps with others before it on the command line.
fn command(before: &[&str], role: &str, folder: &Path) -> Command {
    let program = std::env::current_exe().unwrap();
    let line: Vec<_> = before.iter().map(Into::into).chain([program.into_os_string()]).collect();
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).args(["--exact", "child", "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(FOLDER, folder).stdout(Stdio::piped());
    command
}

/// The rest of the line of a child's output that starts with `word`.
fn said(output: &mut impl BufRead, word: &str) -> Option<String> {
    output.lines().map(Result::unwrap).find_map(|line| Some(line.strip_prefix(word)?.trim().to_owned()))
}

/// Runs a role to its end; what it says of `word`.
fn run(role: &str, folder: &Path, word: &str) -> String {
    let output = command(&[], role, folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{role}: {}\n{text}", output.status);
    said(&mut text.as_bytes(), word).unwrap_or_else(|| panic!("{role} does not speak of {word}:\n{text}"))
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
#[ignore = "the other tests start it"]
fn child() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap());
    match role.to_str().unwrap() {
        "bounded" => bounded(&folder),
        "killed" => killed(&folder),
        "resumed" => resumed(&folder),
        "limited" => limited(&folder),
        "full" => full(&folder),
        role => panic!("{role} is no role"),
    }
}

/// Parameters in bf16 with one gradient for all; the states of AdamW are somewhere else.
struct Training {
    optimizer: Optimizer,
    params: Vec<Vec<bf16>>,
    grad: Vec<bf16>,
}

impl Training {
    fn new(count: usize, len: usize) -> Self {
        let mut optimizer = Optimizer::new(Rule::AdamW);
        optimizer.hyper.lr = 1e-2;
        let number = |i: usize| bf16::from_f32((i.wrapping_mul(2_654_435_761) % 2001) as f32 / 1000.0 - 1.0);
        let params = (0..count).map(|p| (0..len).map(|i| number(i + 7919 * p)).collect()).collect();
        Self { optimizer, params, grad: (0..len).map(|i| number(3 * i + 1)).collect() }
    }

    fn parameters<'a>(&'a mut self, states: Vec<Vec<State<'a>>>) -> Vec<Parameter<'a>> {
        let len = self.grad.len();
        let grad = Tensor::new(&self.grad, 1, len).unwrap();
        let parameter = |(param, states): (&'a mut Vec<bf16>, _)| Parameter {
            param: TensorMut::new(param, 1, len).unwrap(),
            grad,
            states,
        };
        self.params.iter_mut().zip(states).map(parameter).collect()
    }

    /// A step; gradients change from one to the next.
    fn step(&mut self, context: &Context, states: &mut States) {
        let mut optimizer = self.optimizer;
        optimizer.hyper.grad_scale = [1.0, -0.3, 0.7][optimizer.hyper.step as usize % 3];
        match states {
            States::Own(own) => {
                let mut views = self.parameters(lent(own, |state| state.into()));
                optimizer_step(context, &optimizer, &mut views, None, &mut [][..]).unwrap();
            }
            States::Paged(pager, paged) => {
                let mut views = self.parameters(lent(paged, |state| State::F32(state.lend())));
                optimizer_step_paged(context, pager, &optimizer, &mut views, None, &mut [][..]).unwrap();
            }
        }
        self.optimizer.hyper.step += 1;
    }

    fn digest(&self, states: &States) -> String {
        let mut hasher = DefaultHasher::new();
        self.params.iter().for_each(|param| hasher.write(bytemuck::cast_slice(param)));
        match states {
            States::Own(own) => own.iter().for_each(|state| hasher.write(bytemuck::cast_slice(state))),
            States::Paged(_, paged) => paged.iter().for_each(|state| {
                let start = std::ptr::with_exposed_provenance::<f32>(state.address());
                // SAFETY: the buffer's memory, which nobody uses.
                let values = unsafe { std::slice::from_raw_parts(start, state.len()) };
                hasher.write(bytemuck::cast_slice(values));
            }),
        }
        format!("{:016x}", hasher.finish())
    }

    /// States and parameters as bytes.
    fn save(&mut self, context: &Context, states: &mut States) -> Vec<u8> {
        let mut optimizer = self.optimizer;
        optimizer.hyper.step -= 1;
        let States::Paged(pager, paged) = states else { panic!("states that are paged") };
        let views = self.parameters(lent(paged, |state| State::F32(state.lend())));
        let mut bytes = vec![0; optimizer_states_size(&optimizer, &views).unwrap() as usize];
        optimizer_states_save(context, Some(pager), &optimizer, &views, &mut bytes).unwrap();
        drop(views);
        self.params.iter().for_each(|param| bytes.extend_from_slice(bytemuck::cast_slice(param)));
        bytes
    }

    fn restore(&mut self, context: &Context, states: &mut States, bytes: &[u8]) {
        let mut optimizer = self.optimizer;
        let params = size_of_val(&self.grad[..]) * self.params.len();
        let (saved, params) = bytes.split_at(bytes.len() - params);
        for (param, bytes) in self.params.iter_mut().zip(params.chunks(size_of_val(&self.grad[..]))) {
            bytemuck::cast_slice_mut(param).copy_from_slice(bytes);
        }
        let States::Paged(pager, paged) = states else { panic!("states that are paged") };
        let mut views = self.parameters(lent(paged, |state| State::F32(state.lend())));
        optimizer_states_restore(context, Some(pager), &mut optimizer, &mut views, saved).unwrap();
        drop(views);
        self.optimizer.hyper.step = optimizer.hyper.step + 1;
    }
}

/// Two states a parameter.
enum States {
    Own(Vec<Vec<f32>>),
    Paged(Pager, Vec<PagedBuffer<f32>>),
}

impl States {
    fn own(training: &Training) -> Self {
        Self::Own(vec![vec![0.0; training.grad.len()]; 2 * training.params.len()])
    }

    fn paged(pager: &Pager, training: &Training) -> Self {
        let state = |_| pager.buffer(training.grad.len()).unwrap();
        Self::Paged(pager.clone(), (0..2 * training.params.len()).map(state).collect())
    }
}

fn lent<'a, T>(states: &'a mut [T], lend: impl Fn(&'a mut T) -> State<'a>) -> Vec<Vec<State<'a>>> {
    let mut states = states.iter_mut();
    let mut all = Vec::new();
    while let (Some(first), Some(second)) = (states.next(), states.next()) {
        all.push(vec![lend(first), lend(second)]);
    }
    all
}

fn pager(folder: &Path, budget: u64) -> Pager {
    let options = PagerOptions { kind: PagerKind::File, budget, folder: Some(folder.into()) };
    Pager::new(&Context::cpu(), &options).unwrap()
}

/// Bytes by a line of /proc/self/status.
fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = text.lines().find_map(|l| l.strip_prefix(line)?.strip_suffix("kB")).expect(line);
    1024 * kib.trim().parse::<u64>().unwrap()
}

/// 128 MiB of states.
const BOUNDED: (usize, usize) = (4, 4 << 20);

/// As many steps as are asked for within a budget.
fn bounded(folder: &Path) {
    let budget = std::env::var(BUDGET).unwrap().parse().unwrap();
    let context = Context::cpu();
    let mut training = Training::new(BOUNDED.0, BOUNDED.1);
    let pager = pager(folder, budget);
    let mut states = States::paged(&pager, &training);
    assert_eq!(pager.statistics().allocated_bytes, 128 * MIB);
    // Parameters and gradient are there before, and written: 40 MiB of what is resident.
    let before = status("VmRSS:");
    assert!(before > (size_of::<bf16>() * BOUNDED.1 * (BOUNDED.0 + 1)) as u64);
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // a new peak begins
    for _ in 0..steps_within(budget) {
        training.step(&context, &mut states);
    }
    println!("resident {} {} {before}", status("VmHWM:"), status("VmRSS:"));
    println!("digest {}", training.digest(&states));
}

/// Small windows take longer.
fn steps_within(budget: u64) -> u64 {
    if budget < MIB { 3 } else { 100 }
}

#[test]
fn resident_memory_is_bounded_and_the_bits_are_those_of_memory() {
    // A quarter of the states, and the least there is.
    for budget in [32 * MIB, MIB / 4] {
        let folder = folder("bounded");
        let mut command = command(&[], "bounded", &folder);
        let mut child = command.env(BUDGET, budget.to_string()).spawn().unwrap();
        let mut training = Training::new(BOUNDED.0, BOUNDED.1);
        let mut states = States::own(&training);
        for _ in 0..steps_within(budget) {
            training.step(&Context::cpu(), &mut states);
        }
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let resident = said(&mut output, "resident ").unwrap();
        let [peak, after, before] =
            resident.split(' ').map(|bytes| bytes.parse::<u64>().unwrap()).collect::<Vec<_>>()[..]
        else {
            panic!("{resident}")
        };
        println!("MiB resident: {} before, {} after, {} at most", before / MIB, after / MIB, peak / MIB);
        // 64 MB for stacks, buffers and what the system maps around pages. All states at once would be 128 MiB.
        for resident in [peak, after] {
            assert!(resident <= before + budget + 64_000_000, "{resident} after {before}");
        }
        assert_eq!(said(&mut output, "digest "), Some(training.digest(&states)));
        assert!(child.wait().unwrap().success());
    }
}

const KILLED: (usize, usize) = (3, 700_001);
const KILLED_BUDGET: u64 = 4 * MIB;
const KILLED_STEPS: u64 = 9;

/// Steps for ever, and saves after the first ones.
fn killed(folder: &Path) {
    let context = Context::cpu();
    let mut training = Training::new(KILLED.0, KILLED.1);
    let states_folder = folder.join("states");
    let pager = pager(&states_folder, KILLED_BUDGET);
    let mut states = States::paged(&pager, &training);
    loop {
        training.step(&context, &mut states);
        let step = training.optimizer.hyper.step - 1;
        if step <= 4 {
            let bytes = training.save(&context, &mut states);
            std::fs::write(folder.join("saved.new"), bytes).unwrap();
            std::fs::rename(folder.join("saved.new"), folder.join("saved")).unwrap();
        }
        println!("step {step}");
    }
}

/// Continues from what was saved.
fn resumed(folder: &Path) {
    let context = Context::cpu();
    let mut training = Training::new(KILLED.0, KILLED.1);
    training.params.iter_mut().flatten().for_each(|p| *p = bf16::ZERO);
    let pager = pager(&folder.join("states"), 2 * KILLED_BUDGET);
    let mut states = States::paged(&pager, &training);
    training.restore(&context, &mut states, &std::fs::read(folder.join("saved")).unwrap());
    while training.optimizer.hyper.step <= KILLED_STEPS {
        training.step(&context, &mut states);
    }
    println!("digest {}", training.digest(&states));
}

#[test]
fn a_killed_process_leaves_nothing_behind_and_what_it_saved_continues() {
    let mut training = Training::new(KILLED.0, KILLED.1);
    let mut states = States::own(&training);
    for _ in 0..KILLED_STEPS {
        training.step(&Context::cpu(), &mut states);
    }
    let expected = training.digest(&states);
    // At the first step's end, while it saves; between; and long after the last time that it saved.
    for seen in ["1", "3", "20"] {
        let folder = folder("killed");
        let states = folder.join("states");
        std::fs::create_dir(&states).unwrap();
        let mut child: Child = command(&[], "killed", &folder).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        while said(&mut output, "step ").expect("it steps for ever") != seen {}
        // It says so before the next step, which takes some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(3));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        assert_eq!(files(&states), 0);
        assert_eq!(run("resumed", &folder, "digest "), expected, "killed after step {seen}");
        assert_eq!(files(&states), 0);
    }
}

#[test]
fn a_folder_that_is_removed_is_not_missed() {
    let folder = folder("removed");
    let context = Context::cpu();
    let (mut training, mut other) = (Training::new(2, 100_003), Training::new(2, 100_003));
    let pager = pager(&folder, MIB / 2);
    let (mut states, mut expected) = (States::paged(&pager, &training), States::own(&other));
    for step in 0..3 {
        training.step(&context, &mut states);
        other.step(&context, &mut expected);
        if step == 0 {
            std::fs::remove_dir(&folder).unwrap(); // which a folder with a file in it would refuse
        }
    }
    assert!(pager.statistics().windows > 1);
    assert_eq!(training.digest(&states), other.digest(&expected));
    drop(pager.buffer::<f32>(1 << 20).unwrap());
}

/// Steps, asks for more than there is, steps again, in a folder where 8 MiB fit.
fn is_refused_more(folder: &Path) {
    let context = Context::cpu();
    let (mut training, mut other) = (Training::new(2, 100_003), Training::new(2, 100_003));
    let pager = pager(folder, MIB / 2);
    let (mut states, mut expected) = (States::paged(&pager, &training), States::own(&other));
    for _ in 0..3 {
        training.step(&context, &mut states);
        other.step(&context, &mut expected);
        let full = pager.alloc(64 * MIB).unwrap_err();
        assert_eq!(full.status(), Status::OutOfResources, "{full}");
        assert!(full.message().starts_with("bytes is 67108864; the file of "), "{full}");
        // What was refused has taken nothing, and what is freed is there again.
        for _ in 0..20 {
            drop((pager.buffer::<u8>(1 << 20).unwrap(), pager.buffer::<u8>(1 << 20).unwrap()));
        }
        println!("refused {full}");
    }
    assert_eq!(pager.statistics().allocations, 4);
    assert_eq!(training.digest(&states), other.digest(&expected));
}

fn limited(folder: &Path) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let most = Some(8 * MIB);
    setrlimit(Resource::Fsize, Rlimit { current: most, maximum: most }).unwrap();
    is_refused_more(folder);
}

#[test]
fn a_file_that_may_not_grow_is_a_status() {
    let message = run("limited", &folder("limited"), "refused ");
    assert!(message.ends_with("cannot grow: File too large (os error 27)"), "{message}");
}

/// In a name space of its own for mounts: what is mounted goes with the process.
fn full(folder: &Path) {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder).status();
    assert!(mounted.unwrap().success());
    is_refused_more(folder);
}

#[test]
fn a_full_disk_is_a_status() {
    let folder = folder("full");
    let alone = ["unshare", "--mount", "--map-root-user"];
    let mount = ["mount", "-t", "tmpfs", "tmpfs"];
    let can = Command::new(alone[0]).args(&alone[1..]).args(mount).arg(&folder).output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: a small disk cannot be mounted here: {can:?}");
        return;
    }
    let output = command(&alone, "full", &folder).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{text}", output.status);
    let message = said(&mut text.as_bytes(), "refused ").unwrap();
    assert!(message.ends_with("cannot grow: No space left on device (os error 28)"), "{message}");
}
