use ptx_asm::*;

pub fn kernel(k: &Kernel, p: Ptr<Global>, s: Ptr<Shared>, x: Reg<B32>, acc: [Reg<F32>; 4], a: [Reg<Bf16x2>; 4]) {
    let positive = k.setp_gt_s32(k.add_u32(x, 1), 0);
    k.if_then(positive, || k.cp_async_cg_16(s, p));
    k.to(acc[0]).when(positive).add_rn_f32(k.ld_global::<F32>(p), 1.0);
    k.mma_m16n8k16_f32_bf16(a, [a[0], a[1]], acc);
}
