//! Programs in C11, C++17 and Python, compiled and run against the library as its users would.

#![cfg(target_os = "linux")] // as the simulator is

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the libraries of this build: beside the test's own executable.
fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// A directory for this test's outputs; it holds the shared library under its SONAME, as an installation does.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let soname = dir.join("libqlora_kernels.so.0");
    let _ = std::fs::remove_file(&soname);
    std::fs::copy(libraries().join("libqlora_kernels.so"), soname).unwrap();
    dir
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} did not start: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    assert!(stderr.is_empty(), "{command:?} wrote to stderr:\n{stderr}");
    stdout
}

/// A device to run a program on: the word on its command line, and the folder where it finds the driver, if any.
#[derive(Clone, Copy)]
enum On {
    Cpu,
    /// The simulated device, or the machine's own with `QLK_REAL_CUDA=1`.
    Cuda,
}

impl On {
    fn name(self) -> &'static str {
        match self {
            On::Cpu => "cpu",
            On::Cuda => "cuda",
        }
    }

    /// `program` as run by someone who installed the library in `dir`.
    fn command(self, program: impl AsRef<OsStr>, dir: &Path) -> Command {
        let real = std::env::var_os("QLK_REAL_CUDA").is_some_and(|v| v == "1");
        let mut path = dir.as_os_str().to_owned();
        if matches!(self, On::Cuda) && !real {
            path.push(":");
            path.push(simulator());
        }
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", path);
        command
    }
}

/// A folder with the simulator under the driver's names. Links, not copies: the program and the library look for different
/// names, and two copies would be two machines.
fn simulator() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulator");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["libcuda.so", "libcuda.so.1"] {
            let link = folder.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(libraries().join("libptx_sim.so"), link).unwrap();
        }
        folder
    });
    folder.clone()
}

/// Compiles `source` with `flags`, links it with the shared library, runs it on a device.
fn compile_and_run(name: &str, compiler: &str, flags: &[&str], source: &str, on: On) {
    let dir = scratch(&format!("{name}-{}", on.name()));
    let program = dir.join("program");
    run(Command::new(compiler)
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(flags)
        .arg("-I")
        .arg(root().join("include"))
        .arg("-I")
        .arg(root().join("tests/c"))
        .arg(root().join(source))
        .arg("-o")
        .arg(&program)
        .arg(dir.join("libqlora_kernels.so.0"))
        .args(["-lm", "-lpthread", "-ldl"]));
    // The simulator keeps what it knows of device memory where the leak checker does not look for pointers.
    let suppressions = dir.join("leaks.txt");
    std::fs::write(&suppressions, "leak:ptx_sim\n").unwrap();
    let options = format!("suppressions={}:print_suppressions=0", suppressions.display());
    let out = run(on.command(&program, &dir).arg(on.name()).env("LSAN_OPTIONS", options));
    assert!(out.ends_with("ok\n"), "{out}");
}

const C11: &str = "-std=c11";
const SANITIZED: [&str; 3] = [C11, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];

/// The programs in C: each has a folder of its own.
fn c_programs(name: &str, flags: &[&str], on: On) {
    for program in ["consumer", "optimizer"] {
        let source = format!("tests/c/{program}.c");
        compile_and_run(&format!("{name}-{program}"), "cc", flags, &source, on);
    }
}

#[test]
fn c11() {
    c_programs("c11", &[C11], On::Cpu);
}

#[test]
fn c11_on_cuda() {
    c_programs("c11", &[C11], On::Cuda);
}

#[test]
fn c11_under_sanitizers() {
    c_programs("c11-sanitized", &SANITIZED, On::Cpu);
}

#[test]
fn c11_under_sanitizers_on_cuda() {
    c_programs("c11-sanitized", &SANITIZED, On::Cuda);
}

#[test]
fn cpp17() {
    compile_and_run("cpp17", "c++", &["-std=c++17"], "tests/cpp/consumer.cpp", On::Cpu);
}

#[test]
fn cpp17_on_cuda() {
    compile_and_run("cpp17", "c++", &["-std=c++17"], "tests/cpp/consumer.cpp", On::Cuda);
}

/// The example on the README's first page, as printed: compiled with the static library.
#[test]
fn the_readme_example() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = readme.split_once("```c\n").expect("a C example").1.split_once("```").unwrap().0;
    let dir = scratch("readme");
    let (source, program) = (dir.join("example.c"), dir.join("example"));
    std::fs::write(&source, example).unwrap();
    run(Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I"])
        .arg(root().join("include"))
        .arg(&source)
        .arg(libraries().join("libqlora_kernels.a"))
        .args(["-lpthread", "-ldl", "-lm", "-o"])
        .arg(&program));
    assert!(run(&mut Command::new(&program)).contains("at 4.5 bits"));
}

#[test]
fn python() {
    run_python(On::Cpu);
}

#[test]
fn python_on_cuda() {
    run_python(On::Cuda);
}

/// The calls that the comparison with bitsandbytes makes; its own part needs PyTorch and a GPU, and is only compiled.
#[test]
fn the_peers_calls_on_cuda() {
    run_script("peers", "benches/peers/ours.py", On::Cuda);
    let scripts = std::fs::read_dir(root().join("benches/peers")).unwrap().map(|file| file.unwrap().path());
    let scripts = scripts.filter(|path| path.extension().is_some_and(|extension| extension == "py"));
    let compile = "import sys; [compile(open(path).read(), path, 'exec') for path in sys.argv[1:]]";
    run(Command::new("python3").args(["-c", compile]).args(scripts));
}

fn run_python(on: On) {
    run_script("python", "tests/python/consumer.py", on);
}

fn run_script(name: &str, script: &str, on: On) {
    let dir = scratch(&format!("{name}-{}", on.name()));
    let out = run(on
        .command("python3", &dir)
        .arg(root().join(script))
        .arg(dir.join("libqlora_kernels.so.0"))
        .arg(on.name())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", numpy()));
    assert!(out.starts_with("ok"), "{out}");
}

/// Where to look for numpy beside the usual places: it is the machine's, or from PyPI and in the target directory.
fn numpy() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find_numpy)
}

fn find_numpy() -> PathBuf {
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-packages");
    let has_numpy = |path: &Path| {
        let probe = Command::new("python3").args(["-c", "import numpy"]).env("PYTHONPATH", path).output();
        probe.is_ok_and(|output| output.status.success())
    };
    if !has_numpy(&packages) {
        run(Command::new("python3")
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--root-user-action=ignore",
            ])
            .arg("--target")
            .arg(&packages)
            .arg("numpy"));
    }
    packages
}
