//! What the products are to reach on an H100, as times as fast as the same product by cuBLAS on the dequantized weight:
//! NF4 in blocks of 64, double-quantized, bf16.

/// [N, K] of the weight.
pub const SHAPES: [[usize; 2]; 4] = [[4096, 4096], [28672, 8192], [11008, 4096], [4096, 11008]];
/// M: a token's row to several batches'.
pub const ROWS: [usize; 13] = [1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 2048, 8192];
/// Of these, for a first look.
pub const SHAPES_QUICK: [[usize; 2]; 2] = [SHAPES[0], SHAPES[1]];
pub const ROWS_QUICK: [usize; 5] = [1, 16, 64, 512, 2048];

/// The same forward and backward, with and without an adapter.
pub fn against_cublas(m: usize) -> f64 {
    match m {
        ..=4 => 3.2,
        5..=16 => 3.0,
        17..=64 => 2.0,
        65..=512 => 1.0,
        _ => 0.9,
    }
}
