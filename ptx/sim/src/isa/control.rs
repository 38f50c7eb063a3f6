//! Control flow, barriers, fences and instructions across a warp (PTX ISA §9.7.12, §9.7.13).

use super::decoder::Decoder;
use super::mods::Mods;
use super::*;
use super::{Decoded, unknown};
use crate::exec::lanes::{Class, Reg};
use crate::parse::{Instruction, Operand, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "bra" => {
            m.take("uni");
            m.finish()?;
            d.count(i, &[1])?;
            match &i.operands[0] {
                Operand::Name(label) => d.branch(label),
                _ => Err("a label is wanted".into()),
            }
        }
        // A kernel has nobody to return to.
        "exit" | "ret" => {
            m.take("uni");
            m.finish()?;
            Ok(Op::Exit)
        }
        "trap" | "brkpt" => m.finish().map(|()| Op::Trap),
        "nanosleep" => (m.only_ty()? == Type::U32).then_some(Op::Nop).ok_or_else(|| "wants .u32".into()),
        // Launches never overlap here: what is looked at is whether they could.
        "griddepcontrol" => {
            let action =
                m.one_of(&["launch_dependents", "wait"]).ok_or("needs .launch_dependents or .wait")?;
            m.finish().map(|()| if action == "wait" { Op::GridWait } else { Op::Nop })
        }
        "bar" | "barrier" => barrier(d, i, &mut m),
        "fence" | "membar" => fence(i, &mut m),
        "shfl" => shuffle(d, i, &mut m),
        "vote" => vote(d, i, &mut m),
        "match" => match_sync(d, i, &mut m),
        "redux" => redux(d, i, &mut m),
        "activemask" => {
            if m.only_ty()? != Type::B32 {
                return unknown();
            }
            d.count(i, &[1])?;
            Ok(Op::ActiveMask(d.dst(&i.operands[0], Class::B32)?))
        }
        "elect" => {
            if !m.take("sync") {
                return unknown();
            }
            m.finish()?;
            d.count(i, &[2])?;
            let Operand::Pair(leader, p) = &i.operands[0] else { return Err("wants d|p".into()) };
            let (leader, p) = (d.dst(leader, Class::B32)?, d.dst(p, Class::Pred)?);
            Ok(Op::Elect { d: leader, p, mask: d.source::<u32>(&i.operands[1])? })
        }
        _ => unknown(),
    }
}

fn barrier(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if m.take("warp") {
        if !m.take("sync") {
            return unknown();
        }
        m.finish()?;
        d.count(i, &[1])?;
        return Ok(Op::WarpSync(d.source::<u32>(&i.operands[0])?));
    }
    if m.take("cluster") {
        // An arrival releases and a wait acquires; held to that, a .relaxed arrival is treated alike, on the side of silence.
        let kind = m.one_of(&["arrive", "wait"]).ok_or("needs .arrive or .wait")?;
        m.one_of(&["release", "relaxed", "acquire"]);
        m.take("aligned");
        m.finish()?;
        d.count(i, &[0])?;
        return Ok(if kind == "arrive" { Op::ClusterArrive } else { Op::ClusterWait });
    }
    m.take("cta");
    let kind = m.one_of(&["sync", "arrive", "red"]).ok_or("needs .sync, .arrive or .red")?;
    // All threads of a warp must come together in both forms here: `barrier` without .aligned is held to it too.
    m.take("aligned");
    let mut operands = i.operands.iter();
    let mut reduce = None;
    if kind == "red" {
        let op = match m.one_of(&["and", "or", "popc"]) {
            Some("and") => VoteOp::All,
            Some("or") => VoteOp::Any,
            Some(_) => VoteOp::Popc,
            None => return Err("needs .and, .or or .popc".into()),
        };
        let class = match (op, m.only_ty()?) {
            (VoteOp::Popc, Type::U32) => Class::B32,
            (VoteOp::All | VoteOp::Any, Type::Pred) => Class::Pred,
            _ => return unknown(),
        };
        let dst = operands.next().ok_or("a destination is missing")?;
        let (p, rest) = i.operands.split_last().ok_or("operands are missing")?;
        operands = rest[1..].iter();
        reduce = Some(BarrierReduce { op, d: Reg { class, index: d.dst(dst, class)? }, p: d.predicate(p)? });
    }
    m.finish()?;
    let Some(id) = operands.next() else { return Err("the barrier's number is missing".into()) };
    let id = d.source::<u32>(id)?;
    let count = operands.next().map(|count| d.source::<u32>(count)).transpose()?;
    if operands.next().is_some() || kind == "arrive" && count.is_none() {
        return Err("wrong number of operands".into());
    }
    Ok(Op::Barrier(Barrier { id, count, arrive: kind == "arrive", reduce }))
}

fn fence(i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if i.opcode == "membar" {
        let level = m.one_of(&["cta", "gl", "sys"]).ok_or("needs .cta, .gl or .sys")?;
        m.finish()?;
        return Ok(Op::Fence(Fence::Memory { gpu: level != "cta" }));
    }
    if m.take("proxy") {
        if !m.take("async") {
            return unknown();
        }
        let space = m.one_of(&["global", "shared::cta", "shared::cluster"]);
        m.finish()?;
        // Accesses of the async proxy to global memory are not checked; a fence for them says nothing of shared memory.
        return Ok(if space == Some("global") { Op::Nop } else { Op::Fence(Fence::ProxyAsync) });
    }
    if m.take("mbarrier_init") {
        let complete = m.take("release") && m.take("cluster");
        m.finish()?;
        return if complete { Ok(Op::Fence(Fence::MbarrierInit)) } else { unknown() };
    }
    m.one_of(&["sc", "acq_rel", "acquire", "release"]);
    let scope = m.one_of(&["cta", "cluster", "gpu", "sys"]).ok_or("a scope is required")?;
    m.finish()?;
    // Clusters are of one block.
    Ok(Op::Fence(Fence::Memory { gpu: matches!(scope, "gpu" | "sys") }))
}

/// A mask operand that must be constant or in a register.
fn mask(d: &mut Decoder, operand: &Operand) -> Result<u16, String> {
    d.source::<u32>(operand)
}

fn shuffle(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if !m.take("sync") {
        return Err("shfl without .sync does not exist from sm_70 on".into());
    }
    let mode = match m.one_of(&["up", "down", "bfly", "idx"]) {
        Some("up") => ShuffleMode::Up,
        Some("down") => ShuffleMode::Down,
        Some("bfly") => ShuffleMode::Bfly,
        Some(_) => ShuffleMode::Idx,
        None => return Err("a mode is missing".into()),
    };
    if m.only_ty()? != Type::B32 {
        return unknown();
    }
    d.count(i, &[5])?;
    let (dst, p) = match &i.operands[0] {
        Operand::Pair(dst, p) => (d.dst(dst, Class::B32)?, d.dst(p, Class::Pred)?),
        dst => (d.dst(dst, Class::B32)?, d.sink(Class::Pred)),
    };
    let mut source = |k: usize| d.source::<u32>(&i.operands[k]);
    let (a, b, c, mask) = (source(1)?, source(2)?, source(3)?, source(4)?);
    Ok(Op::Shuffle(Box::new(Shuffle { mode, d: dst, p, a, b, c, mask })))
}

fn vote(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if !m.take("sync") {
        return Err("vote without .sync does not exist from sm_70 on".into());
    }
    let op = match m.one_of(&["all", "any", "uni", "ballot"]) {
        Some("all") => VoteOp::All,
        Some("any") => VoteOp::Any,
        Some("uni") => VoteOp::Uni,
        Some(_) => VoteOp::Ballot,
        None => return Err("a mode is missing".into()),
    };
    let class = match (op, m.only_ty()?) {
        (VoteOp::Ballot, Type::B32) => Class::B32,
        (VoteOp::All | VoteOp::Any | VoteOp::Uni, Type::Pred) => Class::Pred,
        _ => return unknown(),
    };
    d.count(i, &[3])?;
    let dst = Reg { class, index: d.dst(&i.operands[0], class)? };
    Ok(Op::Vote(Vote { op, d: dst, p: d.predicate(&i.operands[1])?, mask: mask(d, &i.operands[2])? }))
}

fn match_sync(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let mode = m.one_of(&["any", "all"]).ok_or("needs .any or .all")?;
    if !m.take("sync") {
        return unknown();
    }
    let class = match m.only_ty()? {
        Type::B32 => Class::B32,
        Type::B64 => Class::B64,
        _ => return unknown(),
    };
    d.count(i, &[3])?;
    let (dst, p) = match &i.operands[0] {
        Operand::Pair(dst, p) if mode == "all" => (d.dst(dst, Class::B32)?, d.dst(p, Class::Pred)?),
        dst => (d.dst(dst, Class::B32)?, d.sink(Class::Pred)),
    };
    let a = Reg { class, index: d.src(&i.operands[1], class, false)? };
    Ok(Op::Match(Match { all: mode == "all", d: dst, p, a, mask: mask(d, &i.operands[2])? }))
}

fn redux(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if !m.take("sync") {
        return unknown();
    }
    let name = m.one_of(&["add", "min", "max", "and", "or", "xor"]).ok_or("an operation is missing")?;
    let op = match name {
        "add" => AtomOp::Add,
        "min" => AtomOp::Min,
        "max" => AtomOp::Max,
        "and" => AtomOp::And,
        "or" => AtomOp::Or,
        _ => AtomOp::Xor,
    };
    let bitwise = matches!(op, AtomOp::And | AtomOp::Or | AtomOp::Xor);
    let signed = match (m.only_ty()?, bitwise) {
        (Type::B32, true) | (Type::U32, false) => false,
        (Type::S32, false) => true,
        _ => return unknown(),
    };
    d.count(i, &[3])?;
    let dst = d.dst(&i.operands[0], Class::B32)?;
    let (a, mask) = (d.source::<u32>(&i.operands[1])?, mask(d, &i.operands[2])?);
    Ok(Op::Redux(Redux { op, signed, d: dst, a, mask }))
}
