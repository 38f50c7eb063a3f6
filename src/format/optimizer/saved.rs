//! The states of parameters as a run of bytes, to be continued elsewhere: another device, another pager, another day.
//!
//! All numbers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `QLKSTATE` |
//! | 4 | version: 1 |
//! | 4 | rule: its place in [`Rule::ALL`] |
//! | 8 | step: the number of the last step |
//! | 8 | parameters |
//! | 8 | length of all of it |
//! | 4 | CRC-32 (ISO 3309, as in zip and PNG) of all of it but these four bytes |
//! | 4 | 0 |
//! | 16 each parameter | elements (8); bits of a state's element, 8 or 32 (4); 0 (4) |
//! | the rest | of each parameter, of each state: its values or codes, then the absmax of codes; each from a multiple of 16 on, zeros between |

use super::Rule;
use super::blocks::BLOCK;
use std::ops::Range;

const MAGIC: &[u8; 8] = b"QLKSTATE";
const VERSION: u32 = 1;
const HEAD: u64 = 48;
const CHECKSUM: Range<usize> = 40..44;
const ALIGN: u64 = 16;

/// What is saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Whose states.
    pub rule: Rule,
    /// The number of the last step.
    pub step: u64,
    /// Of each parameter its elements, and whether its states are 8-bit.
    pub parameters: Vec<(u64, bool)>,
}

impl Saved {
    /// Bytes of each area, in order; `None` if they do not fit 64 bits.
    fn areas(&self) -> impl Iterator<Item = Option<u64>> {
        let states = self.rule.states().len();
        self.parameters.iter().flat_map(move |&(elements, eight_bits)| {
            let values = if eight_bits { Some(elements) } else { elements.checked_mul(4) };
            let absmax = eight_bits.then(|| Some(4 * elements.div_ceil(BLOCK as u64)));
            std::iter::repeat_n([Some(values), absmax].into_iter().flatten(), states).flatten()
        })
    }

    /// Where each area is, in the order of the table above, and how long all of it is; `None` if that does not fit 64 bits.
    pub fn places(&self) -> Option<(Vec<Range<u64>>, u64)> {
        let mut end = (self.parameters.len() as u64).checked_mul(16)?.checked_add(HEAD)?;
        let mut places = Vec::new();
        for len in self.areas() {
            let start = end.checked_next_multiple_of(ALIGN)?;
            end = start.checked_add(len?)?;
            places.push(start..end);
        }
        Some((places, end))
    }

    /// Writes everything but the areas, whose places are known; `bytes` is as long as it must be.
    pub fn write(&self, bytes: &mut [u8], places: &[Range<u64>]) {
        let rule = Rule::ALL.iter().position(|rule| *rule == self.rule).expect("all rules are there");
        let mut at = 0;
        let mut put = |value: &[u8]| {
            bytes[at..at + value.len()].copy_from_slice(value);
            at += value.len();
        };
        put(MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(rule as u32).to_le_bytes());
        for number in
            [self.step, self.parameters.len() as u64, places.last().map_or(HEAD, |last| last.end), 0]
        {
            put(&number.to_le_bytes());
        }
        for &(elements, eight_bits) in &self.parameters {
            put(&elements.to_le_bytes());
            put(&u64::from(if eight_bits { 8u32 } else { 32 }).to_le_bytes());
        }
        for place in places {
            bytes[at..place.start as usize].fill(0);
            at = place.end as usize;
        }
    }

    /// Writes the checksum of what is complete but for it.
    pub fn seal(bytes: &mut [u8]) {
        let sum = checksum(bytes);
        bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads what bytes say of themselves; what is wrong with them, if something is.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let len = bytes.len() as u64;
        if len < HEAD || &bytes[..8] != MAGIC {
            return Err(format!("has {len} bytes, which are no saved states"));
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if u32_at(8) != VERSION {
            return Err(format!("is of version {}; this library reads version {VERSION}", u32_at(8)));
        }
        if u64_at(32) != len {
            return Err(format!("has {len} bytes; {} were saved", u64_at(32)));
        }
        if u32_at(CHECKSUM.start) != checksum(bytes) {
            return Err("is damaged: its checksum is another".into());
        }
        let malformed = || "is not as this library writes it".to_owned();
        let rule = *Rule::ALL.get(u32_at(12) as usize).ok_or_else(malformed)?;
        let count = u64_at(24);
        if count > (len - HEAD) / 16 {
            return Err(malformed());
        }
        let parameter = |i: usize| {
            let at = HEAD as usize + 16 * i;
            match u64_at(at + 8) {
                8 => Ok((u64_at(at), true)),
                32 => Ok((u64_at(at), false)),
                _ => Err(malformed()),
            }
        };
        let parameters = (0..count as usize).map(parameter).collect::<Result<_, _>>()?;
        let saved = Self { rule, step: u64_at(16), parameters };
        match saved.places() {
            Some((_, end)) if end == len => Ok(saved),
            _ => Err(malformed()),
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..CHECKSUM.start]);
    hasher.update(&bytes[CHECKSUM.end..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(saved: &Saved) -> Vec<u8> {
        let (places, len) = saved.places().unwrap();
        let mut bytes = vec![0xa5; len as usize];
        saved.write(&mut bytes, &places);
        Saved::seal(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for rule in Rule::ALL {
            for parameters in
                [vec![], vec![(0, false)], vec![(1, true), (257, false), (600, true), (0, true)]]
            {
                let saved = Saved { rule, step: 1 << 40, parameters };
                assert_eq!(Saved::read(&sealed(&saved)), Ok(saved));
            }
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let saved = Saved { rule: Rule::Adam, step: 3, parameters: vec![(300, true), (2, false)] };
        let (places, len) = saved.places().unwrap();
        // 48 + 2 * 16 = 80; two states of 300 codes and 2 absmax, then two of 2 numbers.
        assert_eq!(places, [80..380, 384..392, 400..700, 704..712, 720..728, 736..744]);
        let bytes = sealed(&saved);
        assert_eq!((len, bytes.len()), (744, 744));
        assert_eq!(
            bytes[..48].split_at(40).0,
            [
                81, 76, 75, 83, 84, 65, 84, 69, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
                0, 0, 0, 0, 232, 2, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(
            bytes[48..80],
            [
                44, 1, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0,
                0, 0
            ]
        );
        assert!(bytes[380..384].iter().all(|&b| b == 0));
    }

    #[test]
    fn damage_is_found() {
        let saved = Saved { rule: Rule::Lion, step: 9, parameters: vec![(70, true)] };
        let bytes = sealed(&saved);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Saved::read(&damaged).is_err(), "byte {at}");
        }
        for len in 0..bytes.len() {
            assert!(Saved::read(&bytes[..len]).is_err(), "{len} bytes");
        }
        // A forged checksum does not make sizes true.
        let mut forged = bytes.clone();
        forged[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
        Saved::seal(&mut forged);
        assert_eq!(Saved::read(&forged).unwrap_err(), "is not as this library writes it");
    }
}
