//! Floating-point arithmetic and conversions against plain Rust and the crate `half`.

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::vectors::check32;
use half::{bf16, f16};

const NAN: u32 = 0x7FFF_FFFF;

fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// The bits, NaN made canonical.
fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

fn ftz(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn equal(a: u32, b: u32) -> bool {
    a == b
}

#[test]
fn ieee_f32() {
    check32(
        "sm_80",
        "7.0",
        &[
            ("add.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| bits(f(a) + f(b))),
            ("sub.rn.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| bits(f(a) - f(b))),
            ("mul.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| bits(f(a) * f(b))),
            ("mul.ftz.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| bits(ftz(ftz(f(a)) * ftz(f(b))))),
            ("add.sat.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                let s = f(a) + f(b);
                if s.is_nan() || s <= 0.0 { 0 } else { s.min(1.0).to_bits() }
            }),
            ("fma.rn.f32 %f3, %f0, %f1, %f2; mov.b32 %r10, %f3;", |a, b, c| bits(f(a).mul_add(f(b), f(c)))),
            ("fma.rn.ftz.f32 %f3, %f0, %f1, %f2; mov.b32 %r10, %f3;", |a, b, c| {
                bits(ftz(ftz(f(a)).mul_add(ftz(f(b)), ftz(f(c)))))
            }),
            ("div.rn.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| bits(f(a) / f(b))),
            ("rcp.rn.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(1.0 / f(a))),
            ("sqrt.rn.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(f(a).sqrt())),
            ("neg.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| a ^ 1 << 31),
            ("abs.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| a & NAN),
            ("min.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| extremum(f(a), f(b), true)),
            ("max.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| extremum(f(a), f(b), false)),
            ("max.NaN.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                if f(a).is_nan() || f(b).is_nan() { NAN } else { extremum(f(a), f(b), false) }
            }),
            ("copysign.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| a & 1 << 31 | b & NAN),
        ],
        equal,
    );
}

/// A NaN loses; −0 < +0.
fn extremum(a: f32, b: f32, min: bool) -> u32 {
    if a.is_nan() && b.is_nan() {
        return NAN;
    }
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { b } else { a }.to_bits();
    }
    let order = a.total_cmp(&b).is_lt();
    if order == min { a } else { b }.to_bits()
}

/// Directed rounding, by looking at the neighbours of the f64 result.
fn directed(exact: f64, up: bool) -> u32 {
    let near = exact as f32;
    if near.is_nan() || f64::from(near) == exact || exact.is_infinite() {
        return bits(near);
    }
    match (up, f64::from(near) < exact) {
        (true, true) => near.next_up(),
        (false, false) => near.next_down(),
        _ => near,
    }
    .to_bits()
}

#[test]
fn directed_rounding() {
    check32(
        "sm_80",
        "7.0",
        &[
            // Products of f32 are exact in f64.
            ("mul.rp.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                directed(f64::from(f(a)) * f64::from(f(b)), true)
            }),
            ("mul.rm.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                directed(f64::from(f(a)) * f64::from(f(b)), false)
            }),
            ("mul.rz.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                let exact = f64::from(f(a)) * f64::from(f(b));
                directed(exact, exact < 0.0)
            }),
            ("cvt.rp.f32.s32 %f3, %r0; mov.b32 %r10, %f3;", |a, _, _| directed(f64::from(a as i32), true)),
            ("cvt.rz.f32.u32 %f3, %r0; mov.b32 %r10, %f3;", |a, _, _| directed(f64::from(a), false)),
        ],
        equal,
    );
}

#[test]
fn approximations_keep_their_bounds_and_are_not_exact() {
    fn within(ulps: i64) -> impl Fn(u32, u32) -> bool {
        move |a, b| {
            let order = |x: u32| if x >> 31 == 1 { -i64::from(x & NAN) } else { i64::from(x) };
            a == b || !f(a).is_nan() && !f(b).is_nan() && (order(a) - order(b)).abs() <= ulps
        }
    }
    check32(
        "sm_80",
        "7.0",
        &[
            ("ex2.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(f64::from(f(a)).exp2() as f32)),
            ("ex2.approx.ftz.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| {
                bits(ftz(f64::from(ftz(f(a))).exp2() as f32))
            }),
            ("lg2.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(f64::from(f(a)).log2() as f32)),
            ("rcp.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits((1.0 / f64::from(f(a))) as f32)),
            ("rsqrt.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| {
                bits((1.0 / f64::from(f(a)).sqrt()) as f32)
            }),
            ("sqrt.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(f64::from(f(a)).sqrt() as f32)),
            ("div.full.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |a, b, _| {
                bits((f64::from(f(a)) / f64::from(f(b))) as f32)
            }),
            ("tanh.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(f64::from(f(a)).tanh() as f32)),
        ],
        within(1),
    );
    let differs = std::cell::Cell::new(false);
    check32(
        "sm_80",
        "7.0",
        &[("rcp.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| bits(1.0 / f(a)))],
        |a, b| {
            differs.set(differs.get() | (a != b));
            true
        },
    );
    assert!(differs.get());
}

/// Relative 2^-9.9 is the manual's bound for ex2.f16; tanh's is tighter by a rounding.
#[test]
fn half_precision_approximations() {
    let close = |bound: f64| {
        move |got: u32, exact: u32| {
            [0, 16].iter().all(|&half| {
                let (got, exact) = (h((got >> half) as u16), h((exact >> half) as u16));
                got == exact
                    || got.is_nan() && exact.is_nan()
                    || (got - exact).abs() <= bound * exact.abs() + 2f64.powi(-24)
            })
        }
    };
    check32(
        "sm_75",
        "7.0",
        &[("ex2.approx.f16x2 %r10, %r0;", |x, _, _| halves(x, f64::exp2))],
        close(2f64.powf(-9.9)),
    );
    check32(
        "sm_75",
        "7.0",
        &[("tanh.approx.f16x2 %r10, %r0;", |x, _, _| halves(x, f64::tanh))],
        close(2f64.powf(-9.9)),
    );
}

fn halves(x: u32, g: fn(f64) -> f64) -> u32 {
    u32::from(to_h(g(h((x >> 16) as u16)))) << 16 | u32::from(to_h(g(h(x as u16))))
}

/// Two f16 or bf16 operations in one register.
fn pair(a: u32, b: u32, op: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(op((a >> 16) as u16, (b >> 16) as u16)) << 16 | u32::from(op(a as u16, b as u16))
}

fn h(x: u16) -> f64 {
    f16::from_bits(x).to_f64()
}

fn b(x: u16) -> f64 {
    bf16::from_bits(x).to_f64()
}

/// `half` cuts the low 32 bits off before it rounds: the lowest bit that it looks at stands for them here.
fn sticky(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(bits & !0xFFFF_FFFF | u64::from(bits as u32 != 0) << 32)
}

fn to_h(x: f64) -> u16 {
    if x.is_nan() { 0x7FFF } else { f16::from_f64(sticky(x)).to_bits() }
}

fn to_b(x: f64) -> u16 {
    if x.is_nan() { 0x7FFF } else { bf16::from_f64(sticky(x)).to_bits() }
}

#[test]
fn half_precision() {
    check32(
        "sm_90",
        "7.8",
        &[
            ("add.f16 %h3, %h0, %h1; cvt.u32.u16 %r10, %h3;", |x, y, _| {
                to_h(h(x as u16) + h(y as u16)).into()
            }),
            ("add.f16x2 %r10, %r0, %r1;", |x, y, _| pair(x, y, |x, y| to_h(h(x) + h(y)))),
            ("mul.f16x2 %r10, %r0, %r1;", |x, y, _| pair(x, y, |x, y| to_h(h(x) * h(y)))),
            ("sub.bf16x2 %r10, %r0, %r1;", |x, y, _| pair(x, y, |x, y| to_b(b(x) - b(y)))),
            ("mul.bf16x2 %r10, %r0, %r1;", |x, y, _| pair(x, y, |x, y| to_b(b(x) * b(y)))),
            ("neg.bf16x2 %r10, %r0;", |x, _, _| x ^ 0x8000_8000),
            ("abs.f16x2 %r10, %r0;", |x, _, _| x & 0x7FFF_7FFF),
            ("max.bf16x2 %r10, %r0, %r1;", |x, y, _| {
                pair(x, y, |x, y| match (b(x).is_nan(), b(y).is_nan()) {
                    (true, true) => 0x7FFF,
                    (true, false) => y,
                    (false, true) => x,
                    _ if b(x).total_cmp(&b(y)).is_gt() => x,
                    _ => y,
                })
            }),
            (
                "setp.lt.f16x2 %p0|%p1, %r0, %r1; selp.b32 %r3, 1, 0, %p0; selp.b32 %r10, 2, 0, %p1; or.b32 %r10, %r10, %r3;",
                |x, y, _| {
                    u32::from(h(x as u16) < h(y as u16))
                        | u32::from(h((x >> 16) as u16) < h((y >> 16) as u16)) << 1
                },
            ),
            ("max.xorsign.abs.f32 %f3, %f0, %f1; mov.b32 %r10, %f3;", |x, y, _| {
                let z = extremum(f(x & NAN), f(y & NAN), false);
                if f(z).is_nan() { NAN } else { z | (x ^ y) & 1 << 31 }
            }),
            ("setp.lt.bf16 %p0, %h0, %h1; selp.b32 %r10, 1, 0, %p0;", |x, y, _| {
                u32::from(b(x as u16) < b(y as u16))
            }),
        ],
        equal,
    );
}

/// a·b + c rounded once: the product is exact in f64; of the sum, the error decides ties.
fn fused(x: f64, y: f64, z: f64, bits_to_keep: u32) -> f64 {
    let (p, s) = (x * y, x * y + z);
    if !s.is_finite() || s == 0.0 {
        return s;
    }
    let part = s - p;
    let error = (p - (s - part)) + (z - part);
    // Where s is a tie between two results, the error's sign breaks it: move s by its least unit.
    let tail = s.to_bits() & ((1u64 << (52 - bits_to_keep)) - 1);
    if error != 0.0 && tail.count_ones() <= 1 {
        return if (error > 0.0) == (s > 0.0) {
            f64::from_bits(s.to_bits() + 1)
        } else {
            f64::from_bits(s.to_bits() - 1)
        };
    }
    s
}

#[test]
fn half_precision_fma() {
    check32(
        "sm_80",
        "7.0",
        &[
            ("fma.rn.bf16x2 %r10, %r0, %r1, %r2;", |x, y, z| {
                let op =
                    |x: u32, y: u32, z: u32| u32::from(to_b(fused(b(x as u16), b(y as u16), b(z as u16), 7)));
                op(x >> 16, y >> 16, z >> 16) << 16 | op(x, y, z)
            }),
            ("fma.rn.f16x2 %r10, %r0, %r1, %r2;", |x, y, z| {
                let op = |x: u32, y: u32, z: u32| {
                    u32::from(to_h(fused(h(x as u16), h(y as u16), h(z as u16), 10)))
                };
                op(x >> 16, y >> 16, z >> 16) << 16 | op(x, y, z)
            }),
            ("fma.rn.relu.f16 %h3, %h0, %h1, %h2; cvt.u32.u16 %r10, %h3;", |x, y, z| {
                let r = fused(h(x as u16), h(y as u16), h(z as u16), 10);
                to_h(if r <= 0.0 { 0.0 } else { r }).into()
            }),
        ],
        equal,
    );
}

#[test]
fn conversions() {
    check32(
        "sm_89",
        "8.1",
        &[
            ("cvt.rn.bf16x2.f32 %r10, %f0, %f1;", |x, y, _| {
                u32::from(to_b(f(x).into())) << 16 | u32::from(to_b(f(y).into()))
            }),
            ("cvt.rn.f16x2.f32 %r10, %f0, %f1;", |x, y, _| {
                u32::from(to_h(f(x).into())) << 16 | u32::from(to_h(f(y).into()))
            }),
            ("cvt.rn.relu.bf16x2.f32 %r10, %f0, %f1;", |x, y, _| {
                let relu = |x: u32| if f(x) <= 0.0 { 0 } else { u32::from(to_b(f(x).into())) };
                relu(x) << 16 | relu(y)
            }),
            ("cvt.rn.f16.f32 %h3, %f0; cvt.u32.u16 %r10, %h3;", |x, _, _| to_h(f(x).into()).into()),
            ("cvt.rz.bf16.f32 %h3, %f0; cvt.u32.u16 %r10, %h3;", |x, _, _| {
                if f(x).is_nan() { 0x7FFF } else { x >> 16 }
            }),
            ("cvt.f32.f16 %f3, %h0; mov.b32 %r10, %f3;", |x, _, _| {
                let h = f16::from_bits(x as u16);
                if h.is_nan() { nan_of(h.to_bits()) } else { h.to_f32().to_bits() }
            }),
            ("cvt.f32.bf16 %f3, %h0; mov.b32 %r10, %f3;", |x, _, _| x << 16),
            ("cvt.rna.tf32.f32 %r10, %f0;", |x, _, _| {
                if f(x).is_nan() {
                    NAN
                } else if f(x).is_infinite() {
                    x
                } else {
                    (x + 0x1000) & !0x1FFF
                }
            }),
            ("cvt.rni.s32.f32 %r10, %f0;", |x, _, _| f(x).round_ties_even() as i32 as u32),
            ("cvt.rzi.u32.f32 %r10, %f0;", |x, _, _| f(x) as u32),
            ("cvt.rmi.s32.f32 %r10, %f0;", |x, _, _| f(x).floor() as i32 as u32),
            ("cvt.rni.sat.s8.f32 %r10, %f0;", |x, _, _| f(x).round_ties_even() as i8 as u32),
            ("cvt.rn.f32.s32 %f3, %r0; mov.b32 %r10, %f3;", |x, _, _| (x as i32 as f32).to_bits()),
            ("cvt.rn.f32.u8 %f3, %r0; mov.b32 %r10, %f3;", |x, _, _| f32::from(x as u8).to_bits()),
            ("cvt.rn.f16.s32 %h3, %r0; cvt.u32.u16 %r10, %h3;", |x, _, _| to_h(f64::from(x as i32)).into()),
            ("cvt.sat.u8.s32 %r10, %r0;", |x, _, _| (x as i32).clamp(0, 255) as u32),
            ("cvt.s32.s8 %r10, %r0;", |x, _, _| x as i8 as u32),
            ("cvt.u32.u16 %r10, %h0;", |x, _, _| x & 0xFFFF),
            ("cvt.rni.f32.f32 %f3, %f0; mov.b32 %r10, %f3;", |x, _, _| bits(f(x).round_ties_even())),
            ("cvt.sat.f32.f32 %f3, %f0; mov.b32 %r10, %f3;", |x, _, _| {
                if f(x) > 0.0 { bits(f(x).min(1.0)) } else { 0 }
            }),
            ("cvt.rn.satfinite.e4m3x2.f32 %h3, %f0, %f1; cvt.u32.u16 %r10, %h3;", |x, y, _| {
                e4m3(f(x)) << 8 | e4m3(f(y))
            }),
            ("cvt.rn.satfinite.e5m2x2.f32 %h3, %f0, %f1; cvt.u32.u16 %r10, %h3;", |x, y, _| {
                e5m2(f(x)) << 8 | e5m2(f(y))
            }),
            ("cvt.rn.f16x2.e5m2x2 %r10, %h0;", |x, _, _| {
                let wide = |e: u32| if e & 0x7F > 0x7C { 0x7FFF } else { e << 8 };
                wide(x >> 8 & 255) << 16 | wide(x & 255)
            }),
        ],
        equal,
    );
}

/// f16 NaN to f32: sign and payload move along.
fn nan_of(h: u16) -> u32 {
    u32::from(h & 0x8000) << 16 | 0x7F80_0000 | u32::from(h & 0x3FF) << 13
}

/// Nearest of all e4m3 values, ties to the even code.
fn e4m3(x: f32) -> u32 {
    nearest(x, 0x7E, |code| {
        let (e, m) = (code >> 3, code & 7);
        if e == 0 { f64::from(m) / 512.0 } else { f64::from(8 + m) * 2f64.powi(e as i32 - 10) }
    })
}

fn e5m2(x: f32) -> u32 {
    nearest(x, 0x7B, |code| {
        let (e, m) = (code >> 2, code & 3);
        if e == 0 { f64::from(m) / 65536.0 } else { f64::from(4 + m) * 2f64.powi(e as i32 - 17) }
    })
}

fn nearest(x: f32, max: u32, value: impl Fn(u32) -> f64) -> u32 {
    if x.is_nan() {
        return 0x7F;
    }
    let x = x.clamp(-value(max) as f32, value(max) as f32);
    let distance = |code: &u32| (value(*code) - f64::from(x.abs())).abs();
    let best =
        (0..=max).min_by(|p, q| distance(p).total_cmp(&distance(q)).then((p & 1).cmp(&(q & 1)))).unwrap();
    best | u32::from(x.is_sign_negative()) << 7
}
