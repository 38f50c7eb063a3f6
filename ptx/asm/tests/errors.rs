//! What a module says when it cannot be.

use ptx_asm::*;

fn error(target: Target, write: impl FnOnce(&Kernel)) -> String {
    let mut module = Module::new(target);
    module.kernel("k", write);
    module.to_ptx().unwrap_err().to_string()
}

#[test]
fn an_instruction_that_the_target_lacks() {
    let text = error(Target::Sm75, |k| {
        let x = k.mov::<F32>(1.0);
        k.section("store");
        k.cvt_rn_bf16x2_f32(x, x);
    });
    assert_eq!(
        text,
        "kernel k, section \"store\": cvt.rn.bf16x2.f32 needs sm_80 and .version 7.0; the target is sm_75"
    );
    let text = error(Target::Sm100, |k| k.wgmma_fence());
    assert_eq!(
        text,
        "kernel k: wgmma.fence.sync.aligned needs exactly sm_90a and .version 8.0; the target is sm_100"
    );
}

#[test]
fn hints_that_do_not_go_together() {
    let text = error(Target::Sm80, |k| {
        k.ld_shared_with::<B32>(Load::NC, k.shared::<B32>("a", 1).at(0));
    });
    assert_eq!(text, "kernel k: ld.shared.nc.b32: only global memory has a non-coherent path");
    let text = error(Target::Sm80, |k| {
        k.st_global_with::<B32>(Store::WEAK.cs().l1(Evict::First), k.param_ptr("p"), 1);
    });
    assert_eq!(
        text,
        "kernel k: st.global.cs.L1::evict_first.b32: a cache operator excludes an eviction priority"
    );
}

#[test]
fn the_version_is_the_greatest_that_something_needs() {
    let mut module = Module::new(Target::Sm80);
    assert_eq!(module.version(), Version::new(7, 0));
    module.kernel("a", |k| k.fence_acq_rel_gpu());
    assert_eq!(module.version(), Version::new(7, 0));
    module.kernel("b", |k| k.prefetch_global_l2_evict_last(k.param_ptr("p")));
    assert_eq!(module.version(), Version::new(7, 4));
    module.kernel("c", |k| {
        k.cvt_f32_bf16(k.reg::<Bf16>());
    });
    assert_eq!(module.version(), Version::new(7, 4));
    assert!(module.to_ptx().unwrap().starts_with(".version 7.4\n.target sm_80\n"));
}

#[test]
fn a_version_that_only_older_targets_need() {
    for (target, version) in [(Target::Sm89, Version::new(8, 1)), (Target::Sm90, Version::new(7, 8))] {
        let mut module = Module::new(target);
        module.kernel("k", |k| {
            k.cvt_rn_f16x2_e4m3x2(k.reg::<B16>());
        });
        assert_eq!(module.version(), version, "{target}");
    }
}

#[test]
fn too_much_static_shared_memory() {
    let text = error(Target::Sm90, |k| {
        k.shared::<B32>("a", 12 * 1024);
        k.shared::<U8>("b", 1);
    });
    assert_eq!(text, "kernel k: 49153 bytes of static shared memory, at most 49152 are allowed");
    let mut module = Module::new(Target::Sm90);
    module.kernel("k", |k| k.shared::<B32>("a", 12 * 1024));
    assert!(module.to_ptx().is_ok());
}

#[test]
fn names() {
    let text = error(Target::Sm80, |k| {
        k.param_u32("n");
        k.param_ptr("n");
    });
    assert_eq!(text, "kernel k: the name n is taken");
    for name in ["a-b", "a$b", "WARP_SZ", "1a", ""] {
        let text = error(Target::Sm80, |k| {
            k.param_u32(name);
        });
        let expected = "is no name of letters, digits and _ (or is a reserved one)";
        assert_eq!(text, format!("kernel k: {name:?} {expected}"));
    }

    let mut module = Module::new(Target::Sm80);
    module.kernel("k", |_| ());
    module.kernel("k", |_| ());
    assert_eq!(module.to_ptx().unwrap_err().problem, Problem::DuplicateName { name: "k".into() });

    let mut module = Module::new(Target::Sm80);
    module.kernel("a_b", |_| ());
    module.kernel("a", |k| k.constants("b", &[1]));
    assert_eq!(module.to_ptx().unwrap_err().to_string(), "kernel a: the name a_b is taken");
}

#[test]
#[should_panic(expected = "element 4 of 4")]
fn an_element_outside_its_array() {
    Module::new(Target::Sm80).kernel("k", |k| k.shared::<F32>("a", 4).at(4));
}

#[test]
fn arrays_are_laid_out_one_after_the_other() {
    Module::new(Target::Sm80).kernel("k", |k| {
        let mut shared = k.dynamic_shared(128);
        let bytes = shared.array::<U8>(3);
        let floats = shared.array::<[F32; 2]>(5);
        let aligned = shared.array_aligned::<B64>(1, 128);
        assert_eq!((bytes.bytes(), floats.bytes(), aligned.bytes()), (3, 40, 8));
        assert_eq!(shared.bytes(), 128 + 8);
    });
}

#[test]
fn lut_is_the_truth_table() {
    // PTX ISA §9.7.8.6: ta = 0xF0, tb = 0xCC, tc = 0xAA.
    assert_eq!(lut(|a, b, c| a & b & c), 0x80);
    assert_eq!(lut(|a, b, c| a | b | c), 0xFE);
    assert_eq!(lut(|a, b, c| a & b & !c), 0x40);
    assert_eq!(lut(|a, b, c| (a & b | c) ^ a), 0x1A);
}
