//! Loops, by control flow alone: a back edge is one to a block that dominates its start (that no path there avoids), and its
//! loop is all that reaches it without passing that block. Code that the assembler has put elsewhere, such as the waiting
//! side of a barrier, is no loop by that, and belongs to the loop that it returns to.

use super::listing::{Instruction, Listing};
use std::collections::BTreeSet;

/// Straight-line code, as a range of instructions, and the blocks that may follow and come before.
struct Block {
    range: std::ops::Range<usize>,
    next: Vec<usize>,
    before: Vec<usize>,
}

/// The loops of a kernel, each as its instructions' indices.
pub fn loops(listing: &Listing) -> Vec<BTreeSet<usize>> {
    let blocks = blocks(listing);
    let dominators = dominators(&blocks);
    let mut loops: Vec<(usize, BTreeSet<usize>)> = Vec::new();
    for (tail, block) in blocks.iter().enumerate() {
        for &head in block.next.iter().filter(|head| dominators[tail].contains(head)) {
            let body = natural_loop(&blocks, head, tail);
            // Several ways back to one head are one loop.
            match loops.iter_mut().find(|(other, _)| *other == head) {
                Some((_, all)) => all.extend(body),
                None => loops.push((head, body)),
            }
        }
    }
    let instructions = |body: BTreeSet<usize>| body.into_iter().flat_map(|block| blocks[block].range.clone());
    loops.into_iter().map(|(_, body)| instructions(body).collect()).collect()
}

fn blocks(listing: &Listing) -> Vec<Block> {
    let instructions = &listing.instructions;
    let ends = |i: &Instruction| matches!(i.base(), "BRA" | "EXIT" | "RET");
    let mut starts: BTreeSet<usize> = listing.labels.iter().map(|&(_, at)| at).collect();
    starts.insert(0);
    starts.extend((0..instructions.len()).filter(|&at| ends(&instructions[at])).map(|at| at + 1));
    starts.retain(|&at| at < instructions.len());
    let starts: Vec<usize> = starts.into_iter().collect();
    let number = |at: usize| starts.binary_search(&at).ok();
    let block = |(i, &start): (usize, &usize)| {
        let end = starts.get(i + 1).copied().unwrap_or(instructions.len());
        let last = &instructions[end - 1];
        let jump = if last.base() == "BRA" { listing.target(last).and_then(number) } else { None };
        // A condition is a predicate, or stands before the label: `BRA UP0, …`.
        let is_certain = last.predicate.is_none() && (jump.is_none() || last.operands.starts_with('`'));
        let falls_through = !(ends(last) && is_certain);
        let next = jump.into_iter().chain(if falls_through { number(end) } else { None }).collect();
        Block { range: start..end, next, before: Vec::new() }
    };
    let mut blocks: Vec<Block> = starts.iter().enumerate().map(block).collect();
    for at in 0..blocks.len() {
        blocks[at].next.clone().into_iter().for_each(|next| blocks[next].before.push(at));
    }
    blocks
}

/// For each block those that every path to it passes.
fn dominators(blocks: &[Block]) -> Vec<BTreeSet<usize>> {
    let all: BTreeSet<usize> = (0..blocks.len()).collect();
    let mut dominators = vec![all; blocks.len()];
    dominators[0] = BTreeSet::from([0]);
    let mut has_changed = true;
    while std::mem::take(&mut has_changed) {
        for at in 1..blocks.len() {
            let common = blocks[at].before.iter().map(|&b| dominators[b].clone()).reduce(|a, b| &a & &b);
            let mut of = common.unwrap_or_default();
            of.insert(at);
            if of != dominators[at] {
                dominators[at] = of;
                has_changed = true;
            }
        }
    }
    dominators
}

fn natural_loop(blocks: &[Block], head: usize, tail: usize) -> BTreeSet<usize> {
    let mut body = BTreeSet::from([head]);
    let mut pending = vec![tail];
    while let Some(block) = pending.pop() {
        if body.insert(block) {
            pending.extend(&blocks[block].before);
        }
    }
    body
}
