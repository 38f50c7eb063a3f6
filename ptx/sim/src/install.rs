//! Putting the stand-in driver in the real one's place, and talking to it.

use std::ffi::{CStr, CString, c_void};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::config::Config;
use crate::counters::Counters;
use crate::driver::control::Control;
use crate::fault::Fault;

/// Where this process's CUDA driver comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Installed {
    /// The stand-in.
    Simulator,
    /// The machine's own, because `QLK_REAL_CUDA=1` is in the environment.
    RealDriver,
}

static CONTROL: OnceLock<Option<Control>> = OnceLock::new();

/// Loads the stand-in driver, so that every later `dlopen("libcuda.so")` of this process finds it. Call it before anything
/// asks for CUDA; calling it again does nothing.
///
/// # Panics
/// If `libptx_sim.so` is not beside the program, as cargo puts it.
pub fn install() -> Installed {
    let control = CONTROL.get_or_init(|| {
        if std::env::var_os("QLK_REAL_CUDA").is_some_and(|v| v == "1") {
            return None;
        }
        Some(load())
    });
    if control.is_some() { Installed::Simulator } else { Installed::RealDriver }
}

/// Loads the stand-in driver whatever `QLK_REAL_CUDA` says, for tests whose kernels are broken on purpose: those are not to run
/// on a real device.
///
/// # Panics
/// As [`install`], and if [`install`] has left the machine's own driver in use.
pub fn install_simulator() {
    let control = CONTROL.get_or_init(|| Some(load()));
    assert!(control.is_some(), "the machine's own driver is in use already");
}

fn load() -> Control {
    let candidates = candidates();
    for path in &candidates {
        let Ok(name) = CString::new(path.as_os_str().as_encoded_bytes()) else { continue };
        // SAFETY: the library is this crate; it has no constructors.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        if library.is_null() {
            continue;
        }
        // SAFETY: the symbol, if there, is the function of this name in `driver::control`.
        unsafe {
            let symbol = libc::dlsym(library, c"ptx_sim_control".as_ptr());
            assert!(!symbol.is_null(), "{} is not this crate's library", path.display());
            let fill: unsafe extern "C" fn(*mut c_void) = std::mem::transmute(symbol);
            let mut control = MaybeUninit::<Control>::uninit();
            fill(control.as_mut_ptr().cast());
            return control.assume_init();
        }
    }
    // SAFETY: dlerror returns a C string or null.
    let error = unsafe {
        let text = libc::dlerror();
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    };
    panic!("libptx_sim.so was not found in {candidates:?}: {error}");
}

/// Test programs are in `target/<profile>/deps`, examples in `target/<profile>/examples`, doctests in a temporary directory
/// with `target/<profile>/deps` on the library path.
fn candidates() -> Vec<PathBuf> {
    let name = "libptx_sim.so";
    let mut paths = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        for directory in program.ancestors().skip(1).take(2) {
            paths.push(directory.join(name));
            paths.push(directory.join("deps").join(name));
        }
    }
    paths.retain(|path| path.exists());
    paths.push(PathBuf::from(name));
    paths
}

fn control() -> &'static Control {
    install();
    let control = CONTROL.get().and_then(Option::as_ref);
    control.expect("the simulator is not installed: QLK_REAL_CUDA=1 leaves the real driver in use")
}

/// Configures the simulated machine. Call it after [`install`] and, for what a context sees of its device, before the first
/// context; checks, limits and the order of streams may change at any time.
///
/// # Panics
/// If contexts exist and the device would change under them.
pub fn configure(config: &Config) {
    assert!((control().configure)(config), "the device cannot change while contexts exist");
}

/// The configuration in force.
pub fn config() -> Config {
    (control().config)()
}

/// What the calling thread's calls did, and the work that it submitted.
pub fn counters() -> Counters {
    fn copy(into: *mut c_void, counters: &Counters) {
        // SAFETY: `into` is the variable below.
        unsafe { *into.cast::<Counters>() = counters.clone() };
    }
    let mut counters = Counters::default();
    (control().counters)((&raw mut counters).cast(), copy);
    counters
}

/// Sets the calling thread's counters to zero.
pub fn reset_counters() {
    (control().reset_counters)();
}

/// The last fault of a kernel that the calling thread submitted or waited for.
pub fn last_fault() -> Option<Fault> {
    fn copy(into: *mut c_void, fault: &Fault) {
        // SAFETY: `into` is the variable below.
        unsafe { *into.cast::<Option<Fault>>() = Some(fault.clone()) };
    }
    let mut fault = None;
    (control().last_fault)((&raw mut fault).cast(), copy);
    fault
}

/// Forgets the calling thread's last fault and revives the contexts that faults have ended, which hardware does not.
pub fn clear_faults() {
    (control().clear_faults)();
}

/// Puts the driver back to where it was when it was loaded, configuration included. Handles of before are invalid then.
pub fn reset() {
    (control().reset)();
}
