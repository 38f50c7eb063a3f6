//! `include/qlora_kernels.h` is what cbindgen makes of `src/capi`. After a change of the ABI, write it anew with
//! `QLK_BLESS=1 cargo test --test header`.

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    let files = ["types", "guard", "context", "quantize", "gemm", "pager", "optimizer"];
    for entry in std::fs::read_dir(root.join("src/capi")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(files.contains(&name) || ["mod", "convert"].contains(&name), "{name} is in no header");
    }
    for file in files {
        builder = builder.with_src(root.join(format!("src/capi/{file}.rs")));
    }
    let bindings = builder.generate().unwrap();
    let mut generated = Vec::new();
    bindings.write(&mut generated);
    let generated = String::from_utf8(generated).unwrap();
    let path = root.join("include/qlora_kernels.h");
    if std::env::var_os("QLK_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "include/qlora_kernels.h is out of date: QLK_BLESS=1 cargo test --test header"
    );
}
