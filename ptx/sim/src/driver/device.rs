//! Devices and their attributes.

use std::ffi::{c_char, c_int, c_uint};

use super::{Driver, Status, api, put};

impl Driver {
    /// A device attribute; `None` is for numbers that no driver knows.
    fn attribute(&self, attribute: c_uint) -> Option<c_int> {
        let (major, minor) = self.config.compute_capability;
        let at_least = |cc: (u32, u32)| c_int::from((major, minor) >= cc);
        Some(match attribute {
            1..=3 => 1024,                              // threads a block, x, y
            4 => 64,                                    // z
            5 => i32::MAX,                              // grid x
            6 | 7 => 65535,                             // y, z
            8 => 48 << 10,                              // shared memory a block
            9 => 64 << 10,                              // constant memory
            10 => 32,                                   // warp size
            11 => i32::MAX,                             // pitch
            12 | 82 => 65536,                           // registers a block, an SM
            13 => 1_755_000,                            // clock, kHz
            14 => 512,                                  // texture alignment
            15 => 1,                                    // copies overlap
            16 => self.config.sm_count as c_int,        // SMs
            17 | 18 | 20 | 32 | 35 | 50 | 84 | 85 => 0, // timeout, integrated, compute mode, ECC, TCC, PCI domain, boards
            19 | 31 | 40 | 41 | 78 | 79 | 80 | 83 => 1, // maps host memory … managed memory
            33 => 1,                                    // PCI bus
            34 => 0,                                    // PCI device
            36 => 2_619_000,                            // memory clock, kHz
            37 => 5120,                                 // bus width
            38 => 50 << 20,                             // L2
            39 => {
                if (major, minor) == (7, 5) {
                    1024
                } else if major == 8 && minor > 0 {
                    1536
                } else {
                    2048
                }
            }
            75 => major as c_int,
            76 => minor as c_int,
            81 => (self.config.max_shared_optin() + 1024) as c_int, // shared memory an SM
            88 => 0,                                                // pageable memory access
            89 => c_int::from(self.config.concurrent_managed_access),
            90 => 1, // compute preemption
            91 => 1, // host pointers of registered memory
            95 => 1, // cooperative launch
            97 => self.config.max_shared_optin() as c_int,
            99 => 1, // host registration
            106 => {
                if (major, minor) == (7, 5) || major == 8 && minor > 0 {
                    16
                } else {
                    32
                }
            } // blocks an SM
            111 => {
                if major >= 8 {
                    1024
                } else {
                    0
                }
            } // reserved shared memory a block
            115 => 1, // memory pools
            120 => at_least((9, 0)), // clusters
            _ if attribute < 160 => 0,
            _ => return None,
        })
    }
}

api! {
    fn cuDeviceGet(d, into: *mut c_int, ordinal: c_int) {
        d.check_device(ordinal)?;
        put(into, ordinal)
    }

    fn cuDeviceGetCount(d, into: *mut c_int) {
        d.require_init()?;
        put(into, d.config.device_count as c_int)
    }

    fn cuDeviceGetName(d, into: *mut c_char, len: c_int, device: c_int) {
        d.check_device(device)?;
        let (major, minor) = d.config.compute_capability;
        let name = format!("ptx-sim sm_{major}{minor}");
        if into.is_null() || len < 1 {
            return Err(Status::INVALID_VALUE);
        }
        let len = name.len().min(len as usize - 1);
        std::ptr::copy_nonoverlapping(name.as_ptr(), into.cast(), len);
        *into.add(len) = 0;
        Ok(())
    }

    fn cuDeviceGetUuid(d, into: *mut [u8; 16], device: c_int) {
        d.check_device(device)?;
        put(into, [device as u8; 16])
    }

    fn cuDeviceGetUuid_v2(d, into: *mut [u8; 16], device: c_int) {
        d.check_device(device)?;
        put(into, [device as u8; 16])
    }

    fn cuDeviceTotalMem_v2(d, into: *mut usize, device: c_int) {
        d.check_device(device)?;
        put(into, d.config.memory as usize)
    }

    fn cuDeviceGetAttribute(d, into: *mut c_int, attribute: c_uint, device: c_int) {
        d.check_device(device)?;
        put(into, d.attribute(attribute).ok_or(Status::INVALID_VALUE)?)
    }

    fn cuDeviceComputeCapability(d, major: *mut c_int, minor: *mut c_int, device: c_int) {
        d.check_device(device)?;
        put(major, d.config.compute_capability.0 as c_int)?;
        put(minor, d.config.compute_capability.1 as c_int)
    }

    fn cuDeviceCanAccessPeer(d, into: *mut c_int, device: c_int, peer: c_int) {
        d.check_device(device)?;
        d.check_device(peer)?;
        put(into, c_int::from(device != peer))
    }
}
