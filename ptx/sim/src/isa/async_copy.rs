use super::decoder::Decoder;
use super::{Decoded, unknown};
use crate::parse::Instruction;
pub fn decode(_: &mut Decoder, _: &Instruction) -> Decoded {
    unknown()
}
