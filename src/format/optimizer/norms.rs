//! Norms in one fixed order of additions, and what depends on them: the clipping of the gradient and trust ratios.
//!
//! **The order.** A parameter, flattened, is cut into chunks of [`CHUNK`] elements, the last of which may be short. The squares
//! of a chunk are added by [`chunk_sum`], which is [`tree_sum`] of so few; so are the sums of a parameter's chunks, in order, or, for the norm over all
//! parameters, the sums of the chunks of all of them, in the order of the parameters. Elements that a step keeps count as 0 in
//! the norms of trust ratios. All of it is f32, each operation rounded by itself: squares beyond 2¹²⁸ are infinite.

use super::{Arithmetic, MAX_STATES, Rule, Scalars};
use crate::format::sum::{FAN_IN, run_sum, tree_sum};

/// Elements whose squares are added up by themselves.
pub const CHUNK: usize = 2048;

/// What is added to the norm before it divides, as `torch.nn.utils.clip_grad_norm_` does.
pub const CLIP_EPS: f32 = 1e-6;

/// The sum of a chunk: of each run of 256, then of these sums.
pub fn chunk_sum(squares: &[f32]) -> f32 {
    let mut sums = [0f32; CHUNK / FAN_IN];
    sums.iter_mut().zip(squares.chunks(FAN_IN)).for_each(|(sum, run)| *sum = run_sum(run));
    run_sum(&sums)
}

/// The sum of the squares of one parameter's terms.
pub fn sum_of_squares(terms: &[f32]) -> f32 {
    let squares: Vec<f32> = terms.iter().map(|x| x * x).collect();
    tree_sum(&squares.chunks(CHUNK).map(chunk_sum).collect::<Vec<_>>())
}

/// The gradient's scale from the sum of the squares of the scaled gradient: `grad_scale · min(1, max_norm/(norm + 10⁻⁶))`; NaN
/// if the norm is not finite.
#[inline(always)]
pub fn clipped_scale<A: Arithmetic>(
    a: &A,
    grad_scale: A::Value,
    max_norm: A::Value,
    sum: A::Value,
) -> A::Value {
    let norm = a.sqrt(sum);
    let one = a.number(1.0);
    let factor = a.div(max_norm, a.add(norm, a.number(CLIP_EPS)));
    let factor = a.select(a.greater(one, factor), factor, one);
    a.select(a.is_finite(norm), a.mul(grad_scale, factor), a.number(f32::NAN))
}

impl Rule {
    /// The two terms of an element whose squares make the norms of the trust ratio: p and u with LAMB, p and g with LARS.
    #[inline(always)]
    pub fn norm_terms<A: Arithmetic>(
        self,
        a: &A,
        s: &Scalars<A::Value>,
        p: A::Value,
        gradient: A::Value,
        states: [A::Value; MAX_STATES],
    ) -> [A::Value; 2] {
        let (zero, g) = (a.number(0.0), a.mul(gradient, s.grad_scale));
        let (direction, next) = self.direction(a, s, a.number(1.0), p, g, states);
        let taken = self.taken(a, &next);
        let other = if self == Self::Lamb { direction } else { g };
        [p, other].map(|term| a.select(taken, term, zero))
    }

    /// φ, from the sums of the squares of [`Self::norm_terms`].
    #[inline(always)]
    pub fn trust_ratio<A: Arithmetic>(self, a: &A, s: &Scalars<A::Value>, sums: [A::Value; 2]) -> A::Value {
        let [p, other] = sums.map(|sum| a.sqrt(sum));
        let ratio = match self {
            Self::Lamb => a.div(p, other),
            _ => a.div(a.mul(s.trust, p), a.add(other, a.mul(s.decay, p))),
        };
        let usable = a.both(a.is_finite(ratio), a.greater(ratio, a.number(0.0)));
        a.select(usable, ratio, a.number(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hyper, Numbers};
    use super::*;

    #[test]
    fn a_norm_within_the_bound_scales_nothing() {
        let scale = |sum| clipped_scale(&Numbers, 0.5, 3.0, sum);
        assert_eq!((scale(0.0), scale(8.9)), (0.5, 0.5));
        assert_eq!(scale(36.0), 0.5 * (3.0 / 6.000001));
        assert!(scale(f32::INFINITY).is_nan() && scale(f32::NAN).is_nan());
    }

    #[test]
    fn a_norm_of_zero_is_trusted() {
        for rule in [Rule::Lamb, Rule::Lars] {
            let scalars = Hyper::of(rule).scalars(rule);
            for sums in [[0.0, 1.0], [0.0, 0.0], [f32::INFINITY, 1.0], [1.0, f32::NAN]] {
                assert_eq!(rule.trust_ratio(&Numbers, &scalars, sums), 1.0);
            }
        }
        let scalars = Hyper::of(Rule::Lamb).scalars(Rule::Lamb);
        assert_eq!(Rule::Lamb.trust_ratio(&Numbers, &scalars, [9.0, 4.0]), 1.5);
    }

    #[test]
    fn a_chunk_is_a_tree() {
        for len in [0, 1, 255, 256, 257, CHUNK - 1, CHUNK] {
            let squares: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin().powi(2)).collect();
            assert_eq!(chunk_sum(&squares), tree_sum(&squares), "{len}");
        }
        let ones = vec![1f32; 3 * CHUNK + 5];
        assert_eq!(sum_of_squares(&ones), ones.len() as f32);
    }
}
