//! The optimizers' loops over vectors of any width: the rule is the one of [`crate::format::optimizer`], its arithmetic the
//! instruction set's. Each element sees the same operations in the same order, whatever the width.

use super::{States, Step};
use crate::format::optimizer::{Arithmetic, MAX_STATES, Numbers, Rule};

/// Arithmetic on [`Self::LANES`] numbers at once.
pub trait Lanes: Arithmetic {
    /// How many.
    const LANES: usize;

    /// # Safety
    /// As many numbers can be read.
    unsafe fn load(&self, from: *const f32) -> Self::Value;
    /// # Safety
    /// As many numbers can be written.
    unsafe fn store(&self, to: *mut f32, value: Self::Value);
    /// In how many lanes it is so.
    fn count(&self, which: Self::Truth) -> usize;
}

impl Lanes for Numbers {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn load(&self, from: *const f32) -> f32 {
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store(&self, to: *mut f32, value: f32) {
        unsafe { *to = value }
    }
    #[inline(always)]
    fn count(&self, which: bool) -> usize {
        usize::from(which)
    }
}

/// An expression for each rule, whose constant rule leaves its arithmetic without a branch.
macro_rules! with_rule {
    ($rule:expr, $constant:ident => $body:expr) => {
        with_rule!($rule, $constant, $body, Adam AdamW AdEmaMix Lion Sgd Nesterov RmsProp Adagrad Lamb Lars)
    };
    ($rule:expr, $constant:ident, $body:expr, $($name:ident)*) => {
        match $rule {
            $(Rule::$name => {
                const $constant: Rule = Rule::$name;
                $body
            })*
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use with_rule;

/// Steps elements `start..` in place, whole vectors of them; how many were kept.
///
/// # Safety
/// The instruction set is there. The slices have one length, but for states that the rule has not.
#[inline(always)]
pub unsafe fn optimizer<L: Lanes>(
    lanes: L,
    step: &Step,
    start: usize,
    param: &mut [f32],
    grad: &[f32],
    states: &mut States<'_>,
) -> usize {
    let (len, param, grad) = (param.len(), param.as_mut_ptr(), grad.as_ptr());
    let states = states.each_mut().map(|state| state.as_mut_ptr());
    with_rule!(step.rule, RULE => unsafe { step_all(RULE, lanes, step, start..len, param, grad, states) })
}

#[inline(always)]
unsafe fn step_all<L: Lanes>(
    rule: Rule,
    lanes: L,
    step: &Step,
    range: std::ops::Range<usize>,
    param: *mut f32,
    grad: *const f32,
    states: [*mut f32; MAX_STATES],
) -> usize {
    let (scalars, trust) = (step.scalars.map(|scalar| lanes.number(scalar)), lanes.number(step.trust));
    let zero = lanes.number(0.0);
    let (mut taken_in_all, mut at) = (0, range.start);
    unsafe {
        while at + L::LANES <= range.end {
            let (p, g) = (lanes.load(param.add(at)), lanes.load(grad.add(at)));
            let mut before = [zero; MAX_STATES];
            for s in 0..rule.states().len() {
                before[s] = lanes.load(states[s].add(at));
            }
            let (p, after, taken) = rule.step(&lanes, &scalars, trust, p, g, before);
            lanes.store(param.add(at), p);
            for s in 0..rule.states().len() {
                lanes.store(states[s].add(at), after[s]);
            }
            taken_in_all += lanes.count(taken);
            at += L::LANES;
        }
    }
    (at - range.start) - taken_in_all
}

/// [`Rule::norm_terms`] of elements `start..`, whole vectors of them.
///
/// # Safety
/// As for [`optimizer`].
#[inline(always)]
pub unsafe fn norm_terms<L: Lanes>(
    lanes: L,
    step: &Step,
    start: usize,
    param: &[f32],
    grad: &[f32],
    states: &mut States<'_>,
    terms: &mut [&mut [f32]; 2],
) {
    let (len, param, grad) = (param.len(), param.as_ptr(), grad.as_ptr());
    let (states, terms) =
        (states.each_mut().map(|s| s.as_mut_ptr()), terms.each_mut().map(|t| t.as_mut_ptr()));
    unsafe {
        // Other rules have no norms.
        match step.rule {
            Rule::Lars => terms_of_all(Rule::Lars, lanes, step, start..len, param, grad, states, terms),
            _ => terms_of_all(Rule::Lamb, lanes, step, start..len, param, grad, states, terms),
        }
    }
}

#[inline(always)]
unsafe fn terms_of_all<L: Lanes>(
    rule: Rule,
    lanes: L,
    step: &Step,
    range: std::ops::Range<usize>,
    param: *const f32,
    grad: *const f32,
    states: [*mut f32; MAX_STATES],
    terms: [*mut f32; 2],
) {
    let (scalars, zero) = (step.scalars.map(|scalar| lanes.number(scalar)), lanes.number(0.0));
    let mut at = range.start;
    unsafe {
        while at + L::LANES <= range.end {
            let (p, g) = (lanes.load(param.add(at)), lanes.load(grad.add(at)));
            let mut before = [zero; MAX_STATES];
            for s in 0..rule.states().len() {
                before[s] = lanes.load(states[s].add(at));
            }
            let both = rule.norm_terms(&lanes, &scalars, p, g, before);
            terms.into_iter().zip(both).for_each(|(to, term)| lanes.store(to.add(at), term));
            at += L::LANES;
        }
    }
}
