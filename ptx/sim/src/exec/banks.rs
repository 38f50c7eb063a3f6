//! Bank conflicts of shared memory.

use super::lanes::WARP;
use super::warp::lanes;

/// Wavefronts beyond those that the access needs: 32 banks of 4 bytes; accesses of 8 bytes go in two halves of a warp, of 16
/// bytes in four quarters. Lanes that read the same word share it.
pub fn bank_conflicts(addresses: &[u64; WARP], mask: u32, bytes: usize) -> u64 {
    let lanes_at_once = match bytes {
        ..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let words_each = bytes.div_ceil(4);
    let mut extra = 0;
    for group in 0..WARP / lanes_at_once {
        let group_mask = mask & (((1u64 << lanes_at_once) - 1) << (group * lanes_at_once)) as u32;
        // Of each bank: its distinct words so far, chained through `next`.
        let (mut used, mut most) = (0u32, 1u8);
        let mut last = [0u8; 32];
        let mut depth = [0u8; 32];
        let mut words = [0u64; WARP];
        let mut next = [0u8; WARP];
        let mut count = 0;
        for lane in lanes(group_mask) {
            let first = addresses[lane] / 4;
            'words: for word in first..first + words_each as u64 {
                let bank = (word % 32) as usize;
                if used >> bank & 1 != 0 {
                    let mut at = usize::from(last[bank]);
                    for _ in 0..depth[bank] {
                        if words[at] == word {
                            continue 'words;
                        }
                        at = usize::from(next[at]);
                    }
                }
                used |= 1 << bank;
                next[count] = last[bank];
                last[bank] = count as u8;
                words[count] = word;
                count += 1;
                depth[bank] += 1;
                most = most.max(depth[bank]);
            }
        }
        extra += u64::from(most - 1);
    }
    extra
}
