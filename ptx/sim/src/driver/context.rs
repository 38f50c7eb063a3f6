//! Initialization and contexts.

use std::ffi::{c_int, c_uint};

use super::state::{Context, current_stack};
use super::{Driver, Handle, Outcome, Status, api, put};

impl Driver {
    fn new_context(&mut self, device: i32, primary: bool, flags: u32) -> usize {
        let handle = self.new_handle();
        let context =
            Context { device, references: 1, primary, poisoned: None, flags, limits: Default::default() };
        self.contexts.insert(handle, context);
        handle
    }

    fn primary(&self, device: i32) -> Option<usize> {
        self.contexts.iter().find(|(_, c)| c.primary && c.device == device).map(|(h, _)| *h)
    }

    /// Fails unless there is such a device.
    pub fn check_device(&self, device: c_int) -> Outcome {
        self.require_init()?;
        if (0..self.config.device_count as c_int).contains(&device) {
            Ok(())
        } else {
            Err(Status::INVALID_DEVICE)
        }
    }

    fn create(&mut self, into: *mut Handle, flags: u32, device: c_int) -> Outcome {
        self.check_device(device)?;
        let context = self.new_context(device, false, flags);
        current_stack(|stack| stack.push(context));
        unsafe { put(into, context as Handle) }
    }
}

api! {
    fn cuInit(d, flags: c_uint) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        d.initialized = true;
        Ok(())
    }

    fn cuDriverGetVersion(d, version: *mut c_int) {
        put(version, d.config.driver_version as c_int)
    }

    fn cuDevicePrimaryCtxRetain(d, into: *mut Handle, device: c_int) {
        d.check_device(device)?;
        let context = match d.primary(device) {
            Some(context) => {
                d.contexts.get_mut(&context).expect("found").references += 1;
                context
            }
            None => d.new_context(device, true, 0),
        };
        put(into, context as Handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(d, device: c_int) {
        d.check_device(device)?;
        let context = d.primary(device).ok_or(Status::INVALID_CONTEXT)?;
        let references = &mut d.contexts.get_mut(&context).expect("found").references;
        *references -= 1;
        if *references == 0 {
            d.drop_context(context);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(d, device: c_int) {
        d.check_device(device)?;
        if let Some(context) = d.primary(device) {
            d.drop_context(context);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(d, device: c_int, _flags: c_uint) {
        d.check_device(device)
    }

    fn cuDevicePrimaryCtxGetState(d, device: c_int, flags: *mut c_uint, active: *mut c_int) {
        d.check_device(device)?;
        let context = d.primary(device);
        put(flags, context.map_or(0, |c| d.contexts[&c].flags))?;
        put(active, c_int::from(context.is_some()))
    }

    fn cuCtxCreate_v2(d, into: *mut Handle, flags: c_uint, device: c_int) {
        d.create(into, flags, device)
    }

    fn cuCtxCreate_v3(d, into: *mut Handle, _affinity: Handle, count: c_int, flags: c_uint, device: c_int) {
        if count != 0 { Err(Status::NOT_SUPPORTED) } else { d.create(into, flags, device) }
    }

    fn cuCtxCreate_v4(d, into: *mut Handle, _params: Handle, flags: c_uint, device: c_int) {
        d.create(into, flags, device)
    }

    fn cuCtxDestroy_v2(d, context: Handle) {
        d.require_init()?;
        let context = context as usize;
        match d.contexts.get(&context) {
            None => return Err(Status::INVALID_CONTEXT),
            Some(c) if c.primary => return Err(Status::INVALID_CONTEXT),
            Some(_) => {}
        }
        d.drop_context(context);
        current_stack(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(d, into: *mut Handle) {
        d.require_init()?;
        put(into, current_stack(|stack| stack.last().copied().unwrap_or(0)) as Handle)
    }

    fn cuCtxSetCurrent(d, context: Handle) {
        d.require_init()?;
        let context = context as usize;
        if context != 0 && !d.contexts.contains_key(&context) {
            return Err(Status::INVALID_CONTEXT);
        }
        current_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(d, context: Handle) {
        d.require_init()?;
        if !d.contexts.contains_key(&(context as usize)) {
            return Err(Status::INVALID_CONTEXT);
        }
        current_stack(|stack| stack.push(context as usize));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(d, into: *mut Handle) {
        d.require_init()?;
        let context = current_stack(Vec::pop).ok_or(Status::INVALID_CONTEXT)?;
        if into.is_null() { Ok(()) } else { put(into, context as Handle) }
    }

    fn cuCtxGetDevice(d, into: *mut c_int) {
        let device = d.current_device()?;
        put(into, device)
    }

    fn cuCtxGetApiVersion(d, _context: Handle, version: *mut c_uint) {
        d.require_init()?;
        put(version, 3020)
    }

    fn cuCtxGetFlags(d, flags: *mut c_uint) {
        let current = d.current()?;
        put(flags, d.contexts[&current].flags)
    }

    fn cuCtxSetFlags(d, flags: c_uint) {
        let current = d.current()?;
        d.contexts.get_mut(&current).expect("current").flags = flags;
        Ok(())
    }

    fn cuCtxGetLimit(d, value: *mut usize, limit: c_uint) {
        let current = d.current()?;
        put(value, d.contexts[&current].limits.get(&limit).copied().unwrap_or(0))
    }

    fn cuCtxSetLimit(d, limit: c_uint, value: usize) {
        let current = d.current()?;
        d.contexts.get_mut(&current).expect("current").limits.insert(limit, value);
        Ok(())
    }

    fn cuCtxGetCacheConfig(d, config: *mut c_uint) {
        d.current()?;
        put(config, 0)
    }

    fn cuCtxSetCacheConfig(d, _config: c_uint) {
        d.current().map(drop)
    }

    fn cuCtxGetStreamPriorityRange(d, least: *mut c_int, greatest: *mut c_int) {
        d.current()?;
        if !least.is_null() {
            put(least, 0)?;
        }
        if !greatest.is_null() {
            put(greatest, -5)?;
        }
        Ok(())
    }

    fn cuCtxSynchronize(d) {
        let context = d.current()?;
        d.counters().synchronizations += 1;
        d.forbid_waiting_for_capture(context)?;
        d.finish_context(context)
    }

    fn cuProfilerStart(_d) { Ok(()) }
    fn cuProfilerStop(_d) { Ok(()) }
}
