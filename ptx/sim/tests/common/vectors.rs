//! Instructions on many operands, against plain Rust.

use super::{Gpu, kernel, shape};

/// Threads, each with operands of its own.
const THREADS: usize = 4096;

/// An instruction sequence and what it must compute. Operands `a`, `b`, `c` are in %r0–%r2 (also as %f0–%f2, %h0–%h2: the low
/// halves, %rd0–%rd2 for 64-bit tables); the result goes to %r10 (%rd10).
pub type Case<T> = (&'static str, fn(T, T, T) -> T);

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// Bits of all kinds: random, small, floats of moderate size, special values.
    pub fn word(&mut self) -> u32 {
        const SPECIAL: [u32; 24] = [
            0,
            1,
            2,
            31,
            32,
            33,
            0x7FFF_FFFF,
            0x8000_0000,
            0xFFFF_FFFF,
            0x7F80_0000,
            0xFF80_0000,
            0x7FC0_0000,
            0x7F80_0001,
            0x0080_0000,
            0x007F_FFFF,
            0x8000_0001,
            0x3F80_0000,
            0xBF80_0000,
            0x7F7F_FFFF,
            0x3F00_0000,
            0x4B00_0001,
            0x3380_0000,
            0x477F_F000,
            0x7C00_7BFF,
        ];
        let bits = self.next();
        match bits % 8 {
            0 => SPECIAL[(bits >> 8) as usize % SPECIAL.len()],
            1 => (bits >> 32) as u32 & 63,
            2..=4 => ((bits >> 40) as f32 / 65536.0 - 128.0).to_bits(),
            5 => ((bits >> 40) as f32 * 1e-12).to_bits(),
            _ => (bits >> 32) as u32,
        }
    }
}

/// Runs 32-bit cases; `same` compares results.
pub fn check32(target: &str, version: &str, cases: &[Case<u32>], same: impl Fn(u32, u32) -> bool) {
    let mut random = Random(1);
    let words: Vec<u32> = (0..3 * THREADS).map(|_| random.word()).collect();
    let mut body = String::from(
        "ld.param.u64 %rd20, [p0]; ld.param.u64 %rd21, [p1];
        mov.u32 %r20, %ctaid.x; mov.u32 %r21, %ntid.x; mov.u32 %r22, %tid.x; mad.lo.u32 %r20, %r20, %r21, %r22;
        mul.wide.u32 %rd22, %r20, 12; add.u64 %rd20, %rd20, %rd22;
        mul.wide.u32 %rd22, %r20, 4; add.u64 %rd21, %rd21, %rd22;\n",
    );
    for (k, (text, _)) in cases.iter().enumerate() {
        body += &format!(
            "ld.global.u32 %r0, [%rd20]; ld.global.u32 %r1, [%rd20+4]; ld.global.u32 %r2, [%rd20+8];
            mov.b32 %f0, %r0; mov.b32 %f1, %r1; mov.b32 %f2, %r2;
            cvt.u16.u32 %h0, %r0; cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2;
            {text}
            st.global.u32 [%rd21+{}], %r10;\n",
            4 * k * THREADS
        );
    }
    let gpu = Gpu::new();
    let function = gpu.function(&kernel(target, version, 2, &body), "k");
    let (input, output) = (gpu.upload(&words), gpu.alloc(4 * cases.len() * THREADS));
    gpu.launch(function, shape(THREADS as u32 / 256, 256), &[input, output]);
    let results: Vec<u32> = gpu.download(output, cases.len() * THREADS);
    for (k, (text, oracle)) in cases.iter().enumerate() {
        for t in 0..THREADS {
            let [a, b, c] = [words[3 * t], words[3 * t + 1], words[3 * t + 2]];
            let (got, expected) = (results[k * THREADS + t], oracle(a, b, c));
            assert!(
                same(got, expected),
                "{text}: a={a:#x} b={b:#x} c={c:#x} gives {got:#x}, expected {expected:#x}"
            );
        }
    }
}

/// Runs 64-bit cases.
pub fn check64(cases: &[Case<u64>]) {
    let mut random = Random(2);
    let mut word = || match random.next() % 4 {
        0 => u64::from(random.word()),
        1 => random.next() as i32 as u64,
        2 => f64::to_bits((random.next() >> 20) as f64 / 1e9 - 1e3),
        _ => random.next(),
    };
    let words: Vec<u64> = (0..3 * THREADS).map(|_| word()).collect();
    let mut body = String::from(
        "ld.param.u64 %rd20, [p0]; ld.param.u64 %rd21, [p1];
        mov.u32 %r20, %ctaid.x; mov.u32 %r21, %ntid.x; mov.u32 %r22, %tid.x; mad.lo.u32 %r20, %r20, %r21, %r22;
        mul.wide.u32 %rd22, %r20, 24; add.u64 %rd20, %rd20, %rd22;
        mul.wide.u32 %rd22, %r20, 8; add.u64 %rd21, %rd21, %rd22;\n",
    );
    for (k, (text, _)) in cases.iter().enumerate() {
        body += &format!(
            "ld.global.u64 %rd0, [%rd20]; ld.global.u64 %rd1, [%rd20+8]; ld.global.u64 %rd2, [%rd20+16];
            mov.b64 %fd0, %rd0; mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2;
            cvt.u32.u64 %r0, %rd0; cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mov.b32 %f0, %r0;
            {text}
            st.global.u64 [%rd21+{}], %rd10;\n",
            8 * k * THREADS
        );
    }
    let gpu = Gpu::new();
    let function = gpu.function(&kernel("sm_80", "7.0", 2, &body), "k");
    let (input, output) = (gpu.upload(&words), gpu.alloc(8 * cases.len() * THREADS));
    gpu.launch(function, shape(THREADS as u32 / 256, 256), &[input, output]);
    let results: Vec<u64> = gpu.download(output, cases.len() * THREADS);
    for (k, (text, oracle)) in cases.iter().enumerate() {
        for t in 0..THREADS {
            let [a, b, c] = [words[3 * t], words[3 * t + 1], words[3 * t + 2]];
            let (got, expected) = (results[k * THREADS + t], oracle(a, b, c));
            assert!(
                got == expected,
                "{text}: a={a:#x} b={b:#x} c={c:#x} gives {got:#x}, expected {expected:#x}"
            );
        }
    }
}
