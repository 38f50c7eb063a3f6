//! Exchange between the lanes of a warp (PTX ISA §9.7.9.6, §9.7.13.9–14). `members` is the mask of the lanes that take part.
//!
//! `clamp` bounds the source lane: 31 for `idx`, `down` and `bfly` over the whole warp, 0 for `up`. Bits 8 to 12 are a mask
//! that cuts the warp into segments of a power of two, 32 less the length: lanes read inside their segment only.

use crate::class::{B32, F32, Pred};
use crate::forms::family;
use crate::target::sm;

family! {
    shfl_idx_b32 "shfl.sync.idx.b32" (a: B32, lane: B32, clamp: B32, members: B32) -> B32;
    /// With the predicate that the source lane is in range.
    shfl_idx_b32_p "shfl.sync.idx.b32" (a: B32, lane: B32, clamp: B32, members: B32) -> (B32, Pred);
    shfl_idx_f32 "shfl.sync.idx.b32" (a: F32, lane: B32, clamp: B32, members: B32) -> F32;

    shfl_up_b32 "shfl.sync.up.b32" (a: B32, delta: B32, clamp: B32, members: B32) -> B32;
    /// With the predicate that the source lane is in range.
    shfl_up_b32_p "shfl.sync.up.b32" (a: B32, delta: B32, clamp: B32, members: B32) -> (B32, Pred);
    shfl_up_f32 "shfl.sync.up.b32" (a: F32, delta: B32, clamp: B32, members: B32) -> F32;

    shfl_down_b32 "shfl.sync.down.b32" (a: B32, delta: B32, clamp: B32, members: B32) -> B32;
    /// With the predicate that the source lane is in range.
    shfl_down_b32_p "shfl.sync.down.b32" (a: B32, delta: B32, clamp: B32, members: B32) -> (B32, Pred);
    shfl_down_f32 "shfl.sync.down.b32" (a: F32, delta: B32, clamp: B32, members: B32) -> F32;

    shfl_bfly_b32 "shfl.sync.bfly.b32" (a: B32, mask: B32, clamp: B32, members: B32) -> B32;
    /// With the predicate that the source lane is in range.
    shfl_bfly_b32_p "shfl.sync.bfly.b32" (a: B32, mask: B32, clamp: B32, members: B32) -> (B32, Pred);
    shfl_bfly_f32 "shfl.sync.bfly.b32" (a: F32, mask: B32, clamp: B32, members: B32) -> F32;

    vote_ballot_b32 "vote.sync.ballot.b32" (p: Pred, members: B32) -> B32;
    vote_any_pred "vote.sync.any.pred" (p: Pred, members: B32) -> Pred;
    vote_all_pred "vote.sync.all.pred" (p: Pred, members: B32) -> Pred;
    vote_uni_pred "vote.sync.uni.pred" (p: Pred, members: B32) -> Pred;

    match_any_b32 "match.any.sync.b32" (a: B32, members: B32) -> B32;
    match_all_b32 "match.all.sync.b32" (a: B32, members: B32) -> (B32, Pred);
    activemask "activemask.b32" () -> B32;

    redux_add_u32 "redux.sync.add.u32" (a: B32, members: B32) -> B32, sm(80);
    redux_add_s32 "redux.sync.add.s32" (a: B32, members: B32) -> B32, sm(80);
    redux_min_u32 "redux.sync.min.u32" (a: B32, members: B32) -> B32, sm(80);
    redux_min_s32 "redux.sync.min.s32" (a: B32, members: B32) -> B32, sm(80);
    redux_max_u32 "redux.sync.max.u32" (a: B32, members: B32) -> B32, sm(80);
    redux_max_s32 "redux.sync.max.s32" (a: B32, members: B32) -> B32, sm(80);
    redux_and_b32 "redux.sync.and.b32" (a: B32, members: B32) -> B32, sm(80);
    redux_or_b32 "redux.sync.or.b32" (a: B32, members: B32) -> B32, sm(80);
    redux_xor_b32 "redux.sync.xor.b32" (a: B32, members: B32) -> B32, sm(80);

    /// One of the members: its lane, and true in that lane.
    elect "elect.sync" (members: B32) -> (B32, Pred), sm(90).ptx(8, 0);
}
