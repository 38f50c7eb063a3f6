//! Assembles every instruction form for every target: where the builder says that the target has it, at exactly the
//! `.version` that the builder computes, and not at the one before; where it says not, ptxas must refuse it too.
//!
//! Needs the directory `$PTXAS_DIR` with `13.5/ptxas` and `12.0/ptxas` (facts: `nvidia-cuda-nvcc` 13.5.37 and
//! `nvidia-cuda-nvcc-cu12` 12.0.140 on PyPI).

use ptx_asm::{Form, Module, Operands, Target, Version, forms};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn ptxas(version: &str) -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("PTXAS_DIR") else {
        eprintln!("skipped: PTXAS_DIR is not set");
        return None;
    };
    Some(Path::new(&dir).join(version).join("ptxas"))
}

/// What ptxas says against the text; `None` if it takes it.
fn refusal(ptxas: &Path, target: Target, ptx: &str) -> Option<String> {
    let mut child = Command::new(ptxas)
        .arg(format!("-arch={target}"))
        .args(["-O0", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ptxas runs");
    child.stdin.take().unwrap().write_all(ptx.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (!output.status.success()).then(|| {
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
    })
}

const BOTH: [Operands; 2] = [Operands::Registers, Operands::Constants];

/// A module with the given forms in one kernel each, as the builder writes it.
fn module(target: Target, forms: &[&Form], operands: &[Operands]) -> String {
    let mut module = Module::new(target);
    for (i, form) in forms.iter().enumerate() {
        module.kernel(&format!("form_{i}"), |k| operands.iter().for_each(|&o| (form.sample)(k, o)));
    }
    module.to_ptx().unwrap()
}

/// A form's text under another `.version` and `.target`.
fn retarget(form: &Form, version: Version, target: Target) -> String {
    let ptx = module(form.needs.target(), &[form], &[Operands::Registers]);
    let body = ptx.split_once(".address_size").unwrap().1;
    format!(".version {version}\n.target {target}\n.address_size{body}")
}

fn by_version(target: Target) -> BTreeMap<Version, Vec<Form>> {
    let mut forms_of = BTreeMap::<_, Vec<_>>::new();
    for form in forms() {
        if let Some(version) = form.needs.version_on(target) {
            forms_of.entry(version).or_default().push(form);
        }
    }
    forms_of
}

#[test]
fn every_form_assembles_at_its_version() {
    let (Some(newest), Some(oldest)) = (ptxas("13.5"), ptxas("12.0")) else { return };
    let mut wrong = String::new();
    for target in Target::ALL {
        for (version, forms) in by_version(target) {
            let all: Vec<_> = forms.iter().collect();
            let ptx = module(target, &all, &BOTH);
            assert!(ptx.starts_with(&format!(".version {version}\n.target {target}\n")), "{ptx}");
            let old = version <= Version::new(8, 0) && target <= Target::Sm90a;
            for ptxas in [&newest, &oldest].into_iter().take(1 + usize::from(old)) {
                if refusal(ptxas, target, &ptx).is_none() {
                    continue;
                }
                for form in &forms {
                    if let Some(text) = refusal(ptxas, target, &module(target, &[form], &BOTH)) {
                        writeln!(wrong, "{} {target} {version} {}\n{text}", form.name, ptxas.display())
                            .unwrap();
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Whole kernels: declarations, directives, labels, tables.
#[test]
fn snapshots_assemble() {
    let (Some(newest), Some(oldest)) = (ptxas("13.5"), ptxas("12.0")) else { return };
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots")).unwrap() {
        let ptx = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let Some(target) = Target::ALL.into_iter().find(|t| ptx.contains(&format!(".target {t}\n"))) else {
            continue;
        };
        for ptxas in [&newest, &oldest] {
            assert_eq!(refusal(ptxas, target, &ptx), None, "{ptx}");
        }
    }
}

#[test]
fn no_form_assembles_below_its_version() {
    let Some(ptxas) = ptxas("13.5") else { return };
    let mut wrong = String::new();
    for target in Target::ALL {
        for (version, forms) in by_version(target) {
            let Some(below) = (target.floor() < version).then(|| predecessor(version)) else { continue };
            for form in forms {
                if refusal(&ptxas, target, &retarget(&form, below, target)).is_none() {
                    writeln!(wrong, "{} {target} {below}, not only {version}", form.name).unwrap();
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn no_form_assembles_for_a_target_that_lacks_it() {
    let Some(ptxas) = ptxas("13.5") else { return };
    let mut wrong = String::new();
    for form in forms() {
        for target in Target::ALL.into_iter().filter(|&t| !t.has(form.needs)) {
            if refusal(&ptxas, target, &retarget(&form, Version::new(9, 5), target)).is_none() {
                writeln!(wrong, "{} {target}, not only {}", form.name, form.needs).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The version before. There is no 8.9, and 6.5 and 7.8 are the last of theirs.
fn predecessor(version: Version) -> Version {
    match (version.major, version.minor) {
        (7, 0) => Version::new(6, 5),
        (8, 0) => Version::new(7, 8),
        (9, 0) => Version::new(8, 8),
        (major, minor) => Version::new(major, minor - 1),
    }
}
