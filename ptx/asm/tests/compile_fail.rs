//! Ill-typed code does not build. Each file in `compile_fail/` marks the line that the compiler must refuse, and the
//! error's code: `//~ E0277`. Nothing else of the compiler's words is compared: they change with its version and quote
//! the lists of instructions.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that this test was built with.
fn library() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let mut libraries: Vec<_> = std::fs::read_dir(deps)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("libptx_asm-") && name.ends_with(".rlib")
        })
        .collect();
    libraries.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    libraries.pop().expect("cargo builds the library before its tests")
}

/// What the compiler says to a file; whether it takes it.
fn compile(file: &Path) -> (bool, String) {
    let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file.with_extension("o").file_name().unwrap());
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--emit=obj", "-o"])
        .arg(object)
        .arg(format!("--extern=ptx_asm={}", library().display()))
        .arg(file)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail")
}

#[test]
fn ill_typed_code_is_refused_where_it_is_ill_typed() {
    let mut count = 0;
    for entry in std::fs::read_dir(cases()).unwrap() {
        let file = entry.unwrap().path();
        let source = std::fs::read_to_string(&file).unwrap();
        for (i, line) in source.lines().enumerate() {
            let Some((_, code)) = line.split_once("//~ ") else { continue };
            let (built, text) = compile(&file);
            assert!(!built, "{} builds", file.display());
            assert_eq!(text.matches("error[").count(), 1, "{text}");
            assert!(text.contains(&format!("error[{code}]")), "{text}");
            assert!(text.contains(&format!("{}:{}:", file.display(), i + 1)), "{text}");
            count += 1;
        }
    }
    assert!(count > 10);
}

/// That the others are refused says something only if this one is not.
#[test]
fn well_typed_code_builds() {
    let (built, text) = compile(&cases().join("well_typed.rs"));
    assert!(built, "{text}");
}
