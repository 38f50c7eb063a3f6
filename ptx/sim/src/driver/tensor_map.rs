//! Tensor maps: what the driver checks, and the encoding.

use std::ffi::{c_uint, c_void};

use super::{Outcome, Status, api};
use crate::exec::{Swizzle, TensorMap};

/// Bytes of an element of a `CUtensorMapDataType`.
fn element(data_type: c_uint) -> Outcome<usize> {
    match data_type {
        0 => Ok(1),
        1 | 6 | 9 => Ok(2),
        2 | 3 | 7 | 10..=12 => Ok(4),
        4 | 5 | 8 => Ok(8),
        _ => Err(Status::NOT_SUPPORTED),
    }
}

api! {
    fn cuTensorMapEncodeTiled(
        _d, into: *mut [u8; 128], data_type: c_uint, rank: c_uint, address: *mut c_void, dims: *const u64,
        strides: *const u64, tile: *const u32, element_strides: *const u32, interleave: c_uint, swizzle: c_uint,
        promotion: c_uint, fill: c_uint,
    ) {
        let rank = rank as usize;
        let address = address as u64;
        if into.is_null() || !(into as usize).is_multiple_of(64) || !(1..=5).contains(&rank) || promotion > 3 {
            return Err(Status::INVALID_VALUE);
        }
        if interleave != 0 || fill != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let element = element(data_type)?;
        let swizzle = match swizzle {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            3 => Swizzle::B128,
            _ => return Err(Status::NOT_SUPPORTED),
        };
        let mut map = TensorMap {
            element, rank, address, dims: [1; 5], strides: [element as u64; 5], tile: [1; 5], swizzle,
        };
        for k in 0..rank {
            map.dims[k] = *dims.add(k);
            map.tile[k] = *tile.add(k);
            if k > 0 {
                map.strides[k] = *strides.add(k - 1);
            }
            if *element_strides.add(k) != 1 {
                return Err(Status::NOT_SUPPORTED);
            }
        }
        let row = map.tile[0] as usize * element;
        let valid = address.is_multiple_of(16)
            && map.dims[..rank].iter().all(|d| (1..=1 << 32).contains(d))
            && map.strides[1..rank].iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40)
            && map.tile[..rank].iter().all(|t| (1..=256).contains(t))
            && row.is_multiple_of(16)
            && row <= swizzle.span();
        if !valid {
            return Err(Status::INVALID_VALUE);
        }
        into.write(map.encode());
        Ok(())
    }
}
