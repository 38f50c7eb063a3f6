//! Operands to registers, with the checks that ptxas makes: widths must match, floats take float constants.

use super::Decoded;
use super::decoder::{Decoder, Symbol};
use super::{Address, AddressSpace, Guard, Op, Special};
use crate::exec::lanes::{AluFn, Args, Class, Lane, Reg, map1, map1_imm, map2, map3, map3_imm};
use crate::parse::{Instruction, Operand, Space};

/// A special register by its name.
fn special(name: &str) -> Option<Special> {
    let (stem, axis) = match name.split_once('.') {
        None => (name, 0),
        Some((stem, axis)) => (stem, ["x", "y", "z"].iter().position(|&a| a == axis)? as u8),
    };
    Some(match stem {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        "%ctaid" => Special::Ctaid(axis),
        "%nctaid" => Special::Nctaid(axis),
        "%clusterid" => Special::ClusterId(axis),
        "%nclusterid" => Special::NClusterId(axis),
        "%cluster_ctaid" => Special::ClusterCtaid(axis),
        "%cluster_nctaid" => Special::ClusterNctaid(axis),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%gridid" => Special::GridId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%dynamic_smem_size" => Special::DynamicSmemSize,
        "%total_smem_size" => Special::TotalSmemSize,
        "%cluster_ctarank" => Special::ClusterCtaRank,
        "%cluster_nctarank" => Special::ClusterNctaRank,
        _ => return None,
    })
}

impl Decoder {
    /// The register of this name and class.
    pub(super) fn register(&self, name: &str, class: Class) -> Result<u16, String> {
        match self.find(name) {
            Some(Symbol::Register(reg)) if reg.class == class => Ok(reg.index),
            Some(Symbol::Register(reg)) => {
                Err(format!("register {name} is {:?}, the instruction wants {class:?}", reg.class))
            }
            Some(_) => Err(format!("'{name}' is not a register")),
            None => Err(format!("unknown name '{name}'")),
        }
    }

    /// A register of any class, or `None` for the sink.
    pub(super) fn any_register(&mut self, operand: &Operand) -> Result<Option<Reg>, String> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(None),
            Operand::Name(name) => match self.find(name) {
                Some(Symbol::Register(reg)) => Ok(Some(reg)),
                _ => Err(format!("'{name}' is not a register")),
            },
            _ => Err("a register is wanted".into()),
        }
    }

    /// A destination of the class.
    pub(super) fn dst(&mut self, operand: &Operand, class: Class) -> Result<u16, String> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.sink(class)),
            Operand::Name(name) => self.register(name, class),
            _ => Err("the destination must be a register".into()),
        }
    }

    /// A register that nobody reads.
    pub(super) fn sink(&mut self, class: Class) -> u16 {
        self.new_register(class).index
    }

    /// A source of the class: register, constant, special register or the address of a variable.
    pub(super) fn src(&mut self, operand: &Operand, class: Class, float: bool) -> Result<u16, String> {
        let bits = 8 * class.size() as u32;
        match *operand {
            Operand::Name(ref name) => {
                if let Some(special) = special(name) {
                    return if class == Class::B32 {
                        Ok(self.special(special).index)
                    } else {
                        Err(format!("{name} is a 32-bit register"))
                    };
                }
                if name == "WARP_SZ" {
                    return Ok(self.constant(class, 32));
                }
                match self.find(name) {
                    Some(Symbol::Variable(_, at)) if matches!(class, Class::B32 | Class::B64) => {
                        Ok(self.constant(class, at.into()))
                    }
                    _ => self.register(name, class),
                }
            }
            Operand::Offset(ref name, offset) => match self.find(name) {
                Some(Symbol::Variable(_, at)) if matches!(class, Class::B32 | Class::B64) => {
                    Ok(self.constant(class, at.wrapping_add_signed(offset).into()))
                }
                _ => Err(format!("'{name}' is not a variable")),
            },
            Operand::Int(_) if float => Err("a floating-point constant is wanted".into()),
            Operand::Int(value) if class == Class::Pred => Ok(self.constant(class, u128::from(value != 0))),
            Operand::Int(value) => {
                let fits = bits >= 64 || (value >> (bits - 1) == -1) || (value >> bits == 0);
                if !fits {
                    return Err(format!("the constant {value} has more than {bits} bits"));
                }
                let value = if bits >= 128 {
                    value as i128 as u128
                } else {
                    u128::from(value as u64) & ((1u128 << bits) - 1)
                };
                Ok(self.constant(class, value))
            }
            Operand::F32(value) if class == Class::B32 => Ok(self.constant(class, value.into())),
            Operand::F64(value) if class == Class::B64 => Ok(self.constant(class, value.into())),
            Operand::F64(value) if class == Class::B32 && float => {
                Ok(self.constant(class, (f64::from_bits(value) as f32).to_bits().into()))
            }
            _ => Err("operand of a wrong kind".into()),
        }
    }

    pub(super) fn source<T: Lane>(&mut self, operand: &Operand) -> Result<u16, String> {
        self.src(operand, T::CLASS, T::FLOAT)
    }

    /// A predicate source, perhaps negated.
    pub(super) fn predicate(&mut self, operand: &Operand) -> Result<Guard, String> {
        match operand {
            Operand::Not(name) => Ok(Guard { pred: self.register(name, Class::Pred)?, negated: true }),
            _ => Ok(Guard { pred: self.src(operand, Class::Pred, false)?, negated: false }),
        }
    }

    /// The address of a memory operand, and the state space of the variable it names.
    pub(super) fn address(&mut self, operand: &Operand) -> Result<(Address, Option<Space>), String> {
        let Operand::Address(base, offset) = operand else {
            return Err("a memory operand [...] is wanted".into());
        };
        let offset = *offset;
        match &**base {
            Operand::Name(name) => match self.find(name) {
                Some(Symbol::Register(base)) if matches!(base.class, Class::B32 | Class::B64) => {
                    Ok((Address { base, offset }, None))
                }
                Some(Symbol::Variable(space, at)) => {
                    let base = Reg { class: Class::B64, index: self.constant(Class::B64, at.into()) };
                    Ok((Address { base, offset }, Some(space)))
                }
                _ => Err(format!("'{name}' is not an address")),
            },
            Operand::Int(value) => {
                let base =
                    Reg { class: Class::B64, index: self.constant(Class::B64, (*value as u64).into()) };
                Ok((Address { base, offset }, None))
            }
            _ => Err("malformed address".into()),
        }
    }

    /// The address of a memory operand; a variable in it must be of the state space.
    pub(super) fn address_in(&mut self, operand: &Operand, space: AddressSpace) -> Result<Address, String> {
        let (address, found) = self.address(operand)?;
        match (space, found) {
            (_, None) => Ok(address),
            (AddressSpace::In(space), Some(found)) if space == found => Ok(address),
            (AddressSpace::Generic, Some(Space::Global | Space::Const)) => Ok(address),
            (_, Some(found)) => {
                Err(format!("the variable is in {found:?} space, the instruction wants {space:?}"))
            }
        }
    }

    /// Fails unless the instruction has one of these numbers of operands.
    pub(super) fn count(&self, i: &Instruction, counts: &[usize]) -> Result<(), String> {
        if counts.contains(&i.operands.len()) {
            Ok(())
        } else {
            Err(format!("{} operands, wanted {counts:?}", i.operands.len()))
        }
    }

    pub(super) fn map1<D: Lane, A: Lane, F: Fn(A) -> D + Copy>(&mut self, i: &Instruction, f: F) -> Decoded {
        self.count(i, &[2])?;
        let args = Args {
            d: self.dst(&i.operands[0], D::CLASS)?,
            a: self.source::<A>(&i.operands[1])?,
            ..Args::default()
        };
        Ok(Op::Alu(map1(f), args))
    }

    pub(super) fn map1_imm<D: Lane, A: Lane, F>(&mut self, i: &Instruction, imm: u32, f: F) -> Decoded
    where
        F: Fn(A, u32) -> D + Copy,
    {
        self.count(i, &[2])?;
        let (d, a) = (self.dst(&i.operands[0], D::CLASS)?, self.source::<A>(&i.operands[1])?);
        Ok(Op::Alu(map1_imm(f), Args { d, a, imm, ..Args::default() }))
    }

    pub(super) fn map2<D: Lane, A: Lane, B: Lane, F>(&mut self, i: &Instruction, f: F) -> Decoded
    where
        F: Fn(A, B) -> D + Copy,
    {
        let function = map2(f);
        self.alu2::<D, A, B>(i, function)
    }

    pub(super) fn alu2<D: Lane, A: Lane, B: Lane>(&mut self, i: &Instruction, function: AluFn) -> Decoded {
        self.count(i, &[3])?;
        let d = self.dst(&i.operands[0], D::CLASS)?;
        let (a, b) = (self.source::<A>(&i.operands[1])?, self.source::<B>(&i.operands[2])?);
        Ok(Op::Alu(function, Args { d, a, b, ..Args::default() }))
    }

    pub(super) fn map3<D: Lane, A: Lane, B: Lane, C: Lane, F>(&mut self, i: &Instruction, f: F) -> Decoded
    where
        F: Fn(A, B, C) -> D + Copy,
    {
        let function = map3(f);
        self.alu3::<D, A, B, C>(i, function)
    }

    pub(super) fn map3_imm<D: Lane, A: Lane, B: Lane, C: Lane, F>(
        &mut self,
        i: &Instruction,
        imm: u32,
        f: F,
    ) -> Decoded
    where
        F: Fn(A, B, C, u32) -> D + Copy,
    {
        let Op::Alu(function, mut args) = self.alu3::<D, A, B, C>(i, map3_imm(f))? else { unreachable!() };
        args.imm = imm;
        Ok(Op::Alu(function, args))
    }

    pub(super) fn alu3<D: Lane, A: Lane, B: Lane, C: Lane>(
        &mut self,
        i: &Instruction,
        function: AluFn,
    ) -> Decoded {
        self.count(i, &[4])?;
        let d = self.dst(&i.operands[0], D::CLASS)?;
        let a = self.source::<A>(&i.operands[1])?;
        let (b, c) = (self.source::<B>(&i.operands[2])?, self.source::<C>(&i.operands[3])?);
        Ok(Op::Alu(function, Args { d, a, b, c, ..Args::default() }))
    }
}
