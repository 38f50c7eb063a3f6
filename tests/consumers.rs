//! Programs in C11, C++17 and Python, compiled and run against the library as its users would.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Compiles `source` with `flags`, links it with the shared library, runs it.
fn compile_and_run(name: &str, compiler: &str, flags: &[&str], source: &Path) -> String {
    let dir = scratch(name);
    let program = dir.join("program");
    run(Command::new(compiler)
        .args(["-O1", "-g", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args(flags)
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .arg(dir.join("libqlora_kernels.so.0"))
        .args(["-lm", "-lpthread"]));
    run(Command::new(&program).env("LD_LIBRARY_PATH", &dir))
}

#[test]
fn c11() {
    let out = compile_and_run("c11", "cc", &["-std=c11"], &root().join("tests/c/consumer.c"));
    assert!(out.ends_with("ok\n"), "{out}");
}

#[test]
fn c11_under_sanitizers() {
    let flags = ["-std=c11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let out = compile_and_run("c11-sanitized", "cc", &flags, &root().join("tests/c/consumer.c"));
    assert!(out.ends_with("ok\n"), "{out}");
}

#[test]
fn cpp17() {
    let out = compile_and_run("cpp17", "c++", &["-std=c++17"], &root().join("tests/cpp/consumer.cpp"));
    assert!(out.ends_with("ok\n"), "{out}");
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

/// numpy from the machine, or from PyPI into the target directory.
#[test]
fn python() {
    let dir = scratch("python");
    let packages = dir.join("packages");
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
    let out = run(Command::new("python3")
        .arg(root().join("tests/python/consumer.py"))
        .arg(dir.join("libqlora_kernels.so.0"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONPATH", &packages));
    assert!(out.starts_with("ok"), "{out}");
}
