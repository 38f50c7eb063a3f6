//! Loads, stores and atomics (PTX ISA §9.7.9.8–9.7.9.17, §9.7.13.6).
//!
//! Cache operators, eviction priorities and prefetch sizes are performance hints: they are checked for spelling and ignored.

use super::decoder::{Decoder, class_of};
use super::mods::Mods;
use super::{Access, AddressSpace, AtomOp, AtomType, Atomic, Decoded, Op, Order, unknown};
use crate::exec::lanes::{Class, Reg};
use crate::parse::{Instruction, Operand, Space, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "ld" | "ldu" => load(d, i, &mut m),
        "st" => store(d, i, &mut m),
        "atom" | "red" => atomic(d, i, &mut m),
        "createpolicy" => {
            // A policy is opaque: any number will do.
            let dst = i.operands.first().ok_or("a destination is missing")?;
            let args = crate::exec::lanes::Args {
                d: d.dst(dst, Class::B64)?,
                a: d.constant(Class::B64, 1),
                ..Default::default()
            };
            Ok(Op::Alu(crate::exec::lanes::map1(|a: u64| a), args))
        }
        "prefetch" | "prefetchu" | "applypriority" | "discard" => {
            let space = space(&mut m);
            m.ignore_prefix("L1");
            m.ignore_prefix("L2");
            m.take("tensormap");
            m.finish()?;
            let address = i.operands.first().ok_or("an address is missing")?;
            match d.address(address)? {
                (_, Some(found)) if space != AddressSpace::In(found) => {
                    Err("address of another state space".into())
                }
                // discard makes the contents undefined; that is checked no further.
                _ => Ok(Op::Nop),
            }
        }
        _ => unknown(),
    }
}

/// The state space written on an instruction.
fn space(m: &mut Mods<'_>) -> AddressSpace {
    let names =
        ["global", "shared", "shared::cta", "shared::cluster", "const", "local", "param", "param::entry"];
    match m.one_of(&names) {
        Some("global") => AddressSpace::In(Space::Global),
        Some("const") => AddressSpace::In(Space::Const),
        Some("local") => AddressSpace::In(Space::Local),
        Some("param" | "param::entry") => AddressSpace::In(Space::Param),
        Some(_) => AddressSpace::In(Space::Shared),
        None => AddressSpace::Generic,
    }
}

/// `.relaxed.gpu` and the like, then hints. Returns the order and whether a cache policy operand follows.
fn order_and_hints(
    m: &mut Mods<'_>,
    cache_operators: &[&str],
    atomic: bool,
) -> Result<(Order, bool), String> {
    let semantics = m.one_of(&["weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "mmio"]);
    let scope = m.one_of(&["cta", "cluster", "gpu", "sys"]);
    let order = match semantics {
        // An atomic without a word is relaxed.
        None if atomic => Order::Relaxed,
        None | Some("weak") => Order::Weak,
        Some("relaxed" | "volatile" | "mmio") => Order::Relaxed,
        Some("acquire") => Order::Acquire,
        Some("release") => Order::Release,
        Some(_) => Order::AcqRel,
    };
    let order = if matches!(scope, Some("cta" | "cluster")) { order.in_block() } else { order };
    if matches!(semantics, Some("acquire" | "release")) && scope.is_none() {
        return Err("a scope is required".into());
    }
    m.one_of(cache_operators);
    for hint in ["evict_normal", "evict_unchanged", "evict_first", "evict_last", "no_allocate"] {
        m.take(&format!("L1::{hint}"));
        m.take(&format!("L2::{hint}"));
    }
    for size in ["64B", "128B", "256B"] {
        m.take(&format!("L2::{size}"));
    }
    Ok((order, m.take("L2::cache_hint")))
}

fn vector_length(m: &mut Mods<'_>) -> usize {
    match m.one_of(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    }
}

/// The elements of a data operand: registers at least as wide as the type.
fn elements(
    d: &mut Decoder,
    operand: &Operand,
    ty: Type,
    vector: usize,
    source: bool,
) -> Result<Vec<Option<Reg>>, String> {
    let single = std::slice::from_ref(operand);
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        _ => single,
    };
    if parts.len() != vector {
        return Err(format!("{} elements, wanted {vector}", parts.len()));
    }
    let mut element = |part: &Operand| {
        let constant = matches!(part, Operand::Int(_) | Operand::F32(_) | Operand::F64(_));
        if source && constant {
            let class = class_of(ty);
            return Ok(Some(Reg { class, index: d.src(part, class, ty.is_float())? }));
        }
        let Some(reg) = d.any_register(part)? else {
            return if source { Err("'_' is not a value".to_owned()) } else { Ok(None) };
        };
        if reg.class == Class::Pred
            || reg.class.size() < ty.size()
            || ty.size() == 16 && reg.class != Class::B128
        {
            return Err(format!("a {:?} register cannot hold .{ty:?}", reg.class));
        }
        Ok(Some(reg))
    };
    parts.iter().map(&mut element).collect()
}

fn load(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let space = space(m);
    let (order, policy) = order_and_hints(m, &["ca", "cg", "cs", "lu", "cv"], false)?;
    let read_only = m.take("nc");
    m.take("unified");
    let vector = vector_length(m);
    let ty = m.only_ty()?;
    d.count(i, if policy { &[3] } else { &[2] })?;
    let order = match (order, read_only) {
        (Order::Weak, true) if space == AddressSpace::In(Space::Global) => Order::ReadOnly,
        (_, true) => return unknown(),
        (order, _) if order.releases() => return unknown(),
        (order, _) => order,
    };
    Ok(Op::Load(Box::new(Access {
        space,
        address: d.address_in(&i.operands[1], space)?,
        order,
        size: ty.size(),
        signed: ty.is_signed(),
        registers: elements(d, &i.operands[0], ty, vector, false)?,
    })))
}

fn store(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let space = space(m);
    let (order, policy) = order_and_hints(m, &["wb", "cg", "cs", "wt"], false)?;
    let vector = vector_length(m);
    let ty = m.only_ty()?;
    d.count(i, if policy { &[3] } else { &[2] })?;
    if order.acquires() || matches!(space, AddressSpace::In(Space::Const | Space::Param)) {
        return unknown();
    }
    Ok(Op::Store(Box::new(Access {
        space,
        address: d.address_in(&i.operands[0], space)?,
        order,
        size: ty.size(),
        signed: false,
        registers: elements(d, &i.operands[1], ty, vector, true)?,
    })))
}

fn atomic(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let reduction = i.opcode == "red";
    m.take("async"); // refused below by its own modifiers
    let space = space(m);
    let (order, policy) = order_and_hints(m, &[], true)?;
    let name = m.one_of(&["add", "and", "or", "xor", "min", "max", "inc", "dec", "exch", "cas"]);
    let noftz = m.take("noftz");
    let vector = vector_length(m);
    let ty = m.only_ty()?;
    let op = match name.ok_or("an operation is missing")? {
        "add" => AtomOp::Add,
        "and" => AtomOp::And,
        "or" => AtomOp::Or,
        "xor" => AtomOp::Xor,
        "min" => AtomOp::Min,
        "max" => AtomOp::Max,
        "inc" => AtomOp::Inc,
        "dec" => AtomOp::Dec,
        "exch" => AtomOp::Exch,
        _ => AtomOp::Cas,
    };
    let atom_type = match ty {
        Type::F32 => AtomType::F32,
        Type::F64 => AtomType::F64,
        Type::F16 => AtomType::F16,
        Type::F16x2 => AtomType::F16x2,
        Type::Bf16 => AtomType::Bf16,
        Type::Bf16x2 => AtomType::Bf16x2,
        Type::S32 | Type::S64 => AtomType::Signed,
        Type::B16 | Type::B32 | Type::U32 | Type::B64 | Type::U64 => AtomType::Unsigned,
        _ => return unknown(),
    };
    let half = matches!(atom_type, AtomType::F16 | AtomType::F16x2 | AtomType::Bf16 | AtomType::Bf16x2);
    let allowed = match (op, ty) {
        (AtomOp::Add, _) if half => noftz,
        (AtomOp::Add, Type::U32 | Type::S32 | Type::U64 | Type::F32 | Type::F64) => true,
        (AtomOp::And | AtomOp::Or | AtomOp::Xor, Type::B32 | Type::B64) => true,
        (AtomOp::Exch, Type::B32 | Type::B64) => !reduction,
        (AtomOp::Cas, Type::B16 | Type::B32 | Type::B64) => !reduction,
        (AtomOp::Min | AtomOp::Max, Type::U32 | Type::S32 | Type::U64 | Type::S64) => true,
        (AtomOp::Inc | AtomOp::Dec, Type::U32) => true,
        _ => false,
    };
    if !allowed || noftz && !half || vector > 1 && op != AtomOp::Add {
        return unknown();
    }
    let first = usize::from(!reduction);
    let wanted = first + 2 + usize::from(op == AtomOp::Cas) + usize::from(policy);
    d.count(i, &[wanted])?;
    let class = class_of(ty);
    let source = |d: &mut Decoder, part: &Operand| {
        Ok::<_, String>(Reg { class, index: d.src(part, class, ty.is_float())? })
    };
    let value = &i.operands[first + 1];
    let mut operands = match value {
        Operand::Vector(parts) if parts.len() == vector => {
            parts.iter().map(|part| source(d, part)).collect::<Result<Vec<_>, _>>()?
        }
        _ if vector == 1 => vec![source(d, value)?],
        _ => return Err("wrong number of elements".into()),
    };
    if op == AtomOp::Cas {
        operands.push(source(d, &i.operands[first + 2])?);
    }
    let dst = match (reduction, &i.operands[0]) {
        (true, _) => None,
        (false, Operand::Vector(parts)) => {
            let part = |part: &Operand| Ok(Reg { class, index: d.dst(part, class)? });
            Some(parts.iter().map(part).collect::<Result<Vec<_>, String>>()?)
        }
        (false, part) => Some(vec![Reg { class, index: d.dst(part, class)? }]),
    };
    let address = d.address_in(&i.operands[first], space)?;
    Ok(Op::Atomic(Box::new(Atomic {
        space,
        address,
        order,
        op,
        ty: atom_type,
        size: ty.size(),
        dst,
        operands,
    })))
}
