//! Modules: from text to kernels.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::function::Function;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::isa::{Symbol, Symbols, decode};
use crate::memory::{Kind, memory};
use crate::parse::{ParseError, Space, Variable, parse};

/// A loaded module.
pub struct Module {
    pub context: usize,
    functions: HashMap<String, usize>,
    /// Address and size.
    variables: HashMap<String, (u64, usize)>,
}

/// Why a module is refused: a status, and the text of the JIT's log.
struct Refusal {
    status: Status,
    log: String,
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self { status: Status::INVALID_PTX, log: error.to_string() }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, log: String::new() }
    }
}

impl Driver {
    fn load(&mut self, text: &str) -> Result<usize, Refusal> {
        let context = self.current()?;
        self.forbid_unsafe_in_capture()?;
        let module = parse(text)?;
        let (major, minor) = self.config.ptx_version();
        if module.version > (major, minor) {
            let (wanted_major, wanted_minor) = module.version;
            let log = format!(
                "ptxas application ptx input, line {}; fatal   : Unsupported .version {wanted_major}.{wanted_minor}; current version is '{major}.{minor}'",
                module.version_line
            );
            return Err(Refusal { status: Status::UNSUPPORTED_PTX_VERSION, log });
        }
        if !self.runs_target(&module.target) {
            let (major, minor) = self.config.compute_capability;
            let log = format!(
                ".target {} does not run on a device of compute capability {major}.{minor}",
                module.target
            );
            return Err(Refusal { status: Status::NO_BINARY_FOR_GPU, log });
        }
        // Everything is decoded before anything is kept; the variables' memory is given back if that fails.
        let mut variables = HashMap::new();
        let decoded = self.place_variables(&module.variables, &mut variables).and_then(|symbols| {
            let is_shared = |v: &&Variable| v.space == Space::Shared;
            let shared: Vec<Variable> = module.variables.iter().filter(is_shared).cloned().collect();
            let decode = |entry| decode(entry, &symbols, &shared).map_err(Refusal::from);
            module.entries.iter().map(decode).collect::<Result<Vec<_>, _>>()
        });
        let kernels = match decoded {
            Ok(kernels) => kernels,
            Err(refusal) => {
                variables.values().for_each(|&(address, _)| self.release(address));
                return Err(refusal);
            }
        };
        let functions = kernels
            .into_iter()
            .map(|kernel| {
                let handle = self.new_handle();
                let name = kernel.name.clone();
                let max_dynamic_shared = AtomicU32::new(0);
                let function = Function { context, kernel, version: module.version, max_dynamic_shared };
                self.functions.insert(handle, Arc::new(function));
                (name, handle)
            })
            .collect();
        let handle = self.new_handle();
        self.modules.insert(handle, Module { context, functions, variables });
        Ok(handle)
    }

    /// Whether the device runs code of this target: `sm_80` on 8.0 and later, `sm_90a` on exactly 9.0, `f` targets in a family.
    fn runs_target(&self, target: &str) -> bool {
        let Some(number) = target.strip_prefix("sm_") else { return false };
        let exact = number.ends_with('a');
        let family = number.ends_with('f');
        let Ok(number) = number.trim_end_matches(['a', 'f']).parse::<u32>() else { return false };
        let target = (number / 10, number % 10);
        let device = self.config.compute_capability;
        match (exact, family) {
            (true, _) => device == target,
            (_, true) => device.0 == target.0 && device.1 >= target.1,
            _ => device >= target,
        }
    }

    fn place_variables(
        &mut self,
        variables: &[Variable],
        placed: &mut HashMap<String, (u64, usize)>,
    ) -> Result<Symbols, Refusal> {
        let mut symbols = Symbols::new();
        for v in variables.iter().filter(|v| v.space != Space::Shared) {
            if v.external || v.space == Space::Local {
                let text = format!("variable '{}' is defined nowhere", v.name);
                return Err(ParseError { line: v.line, text }.into());
            }
            let address = self.allocate(v.size, Kind::Module)?;
            // Without an initializer variables are zero.
            let mut bytes = v.init.clone();
            bytes.resize(v.size, 0);
            // SAFETY: just allocated.
            unsafe { memory().copy(address, bytes.as_ptr() as u64, v.size) };
            placed.insert(v.name.clone(), (address, v.size));
            symbols.insert(v.name.clone(), Symbol::Variable(v.space, address));
        }
        Ok(symbols)
    }

    /// Forgets a module.
    pub fn unload(&mut self, module: usize) {
        if let Some(module) = self.modules.remove(&module) {
            for function in module.functions.values() {
                self.functions.remove(function);
            }
            for (address, _) in module.variables.values() {
                self.release(*address);
            }
        }
    }

    fn module(&self, handle: Handle) -> Outcome<&Module> {
        self.current()?;
        self.modules.get(&(handle as usize)).ok_or(Status::INVALID_HANDLE)
    }

    unsafe fn load_image(&mut self, into: *mut Handle, image: *const c_void, log: &mut Log) -> Outcome {
        if image.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // Cubins and fat binaries are code for the hardware.
        let magic = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) };
        if magic == b"\x7FELF" || magic == [0x50, 0xED, 0x55, 0xBA] {
            return Err(Status::NO_BINARY_FOR_GPU);
        }
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_str().map_err(|_| Status::INVALID_PTX)?;
        match self.load(text) {
            Ok(module) => unsafe { put(into, module as Handle) },
            Err(refusal) => {
                unsafe { log.write(&refusal.log) };
                Err(refusal.status)
            }
        }
    }
}

/// The error log buffer of `cuModuleLoadDataEx`.
struct Log {
    buffer: *mut c_char,
    size: usize,
    /// Where the number of written bytes goes.
    written: *mut *mut c_void,
}

impl Log {
    /// The caller wants none.
    const fn none() -> Self {
        Self { buffer: std::ptr::null_mut(), size: 0, written: std::ptr::null_mut() }
    }

    /// Finds the buffers among the options.
    unsafe fn from_options(count: c_uint, options: *const c_uint, values: *mut *mut c_void) -> Self {
        const INFO_LOG_SIZE: c_uint = 4;
        const ERROR_LOG: c_uint = 5;
        const ERROR_LOG_SIZE: c_uint = 6;
        let mut log = Self::none();
        for k in 0..count as usize {
            // SAFETY: the caller's promise: `count` options and values. Small values are in the pointers themselves.
            unsafe {
                let value = values.add(k);
                match *options.add(k) {
                    ERROR_LOG => log.buffer = (*value).cast(),
                    ERROR_LOG_SIZE => {
                        log.size = *value as usize & 0xFFFF_FFFF;
                        log.written = value;
                        *value = std::ptr::null_mut();
                    }
                    INFO_LOG_SIZE => *value = std::ptr::null_mut(),
                    _ => {}
                }
            }
        }
        log
    }

    unsafe fn write(&mut self, text: &str) {
        if self.buffer.is_null() || self.size == 0 {
            return;
        }
        let len = text.len().min(self.size - 1);
        // SAFETY: the caller's promise about the buffer.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.buffer.cast(), len);
            *self.buffer.add(len) = 0;
            if !self.written.is_null() {
                *self.written = (len + 1) as *mut c_void;
            }
        }
    }
}

api! {
    fn cuModuleLoadData(d, into: *mut Handle, image: *const c_void) {
        d.load_image(into, image, &mut Log::none())
    }

    fn cuModuleLoadDataEx(
        d, into: *mut Handle, image: *const c_void, count: c_uint, options: *const c_uint, values: *mut *mut c_void,
    ) {
        let mut log = Log::from_options(count, options, values);
        d.load_image(into, image, &mut log)
    }

    fn cuModuleLoad(d, into: *mut Handle, path: *const c_char) {
        d.current()?;
        if path.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let path = CStr::from_ptr(path).to_str().map_err(|_| Status::FILE_NOT_FOUND)?;
        let mut text = std::fs::read(path).map_err(|_| Status::FILE_NOT_FOUND)?;
        text.extend_from_slice(&[0; 4]);
        d.load_image(into, text.as_ptr().cast(), &mut Log::none())
    }

    fn cuModuleUnload(d, module: Handle) {
        d.module(module)?;
        // Kernels under way keep what they need.
        let context = d.current()?;
        d.finish_context(context)?;
        d.unload(module as usize);
        Ok(())
    }

    fn cuModuleGetFunction(d, into: *mut Handle, module: Handle, name: *const c_char) {
        let module = d.module(module)?;
        if name.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let name = CStr::from_ptr(name).to_str().map_err(|_| Status::NOT_FOUND)?;
        put(into, *module.functions.get(name).ok_or(Status::NOT_FOUND)? as Handle)
    }

    fn cuModuleGetGlobal_v2(d, address: *mut u64, size: *mut usize, module: Handle, name: *const c_char) {
        let module = d.module(module)?;
        if name.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let name = CStr::from_ptr(name).to_str().map_err(|_| Status::NOT_FOUND)?;
        let &(at, len) = module.variables.get(name).ok_or(Status::NOT_FOUND)?;
        if !address.is_null() {
            put(address, at)?;
        }
        if size.is_null() { Ok(()) } else { put(size, len) }
    }

    fn cuModuleGetLoadingMode(d, mode: *mut c_uint) {
        d.require_init()?;
        put(mode, 1) // eager
    }
}
