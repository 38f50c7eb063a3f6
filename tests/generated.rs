//! `ptx/generated/` is what the kernels look like. After a change of a kernel, write it anew with
//! `QLK_BLESS=1 cargo test --test generated`.

use qlora_kernels::kernels::catalogue::catalogue;
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn the_generated_ptx_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/generated");
    let mut expected = BTreeMap::new();
    for entry in catalogue() {
        let written = entry.write().unwrap_or_else(|error| panic!("{}: {error}", entry.file));
        let path = folder.join(entry.target.name()).join(entry.file).with_extension("ptx");
        assert!(expected.insert(path, written.ptx).is_none(), "two kernels of one name");
    }
    if std::env::var_os("QLK_BLESS").is_some() {
        for (path, ptx) in &expected {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, ptx).unwrap();
        }
    }
    let advice = "is out of date: QLK_BLESS=1 cargo test --test generated";
    for (path, ptx) in &expected {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == *ptx, "{} {advice}", path.display());
    }
    for target in std::fs::read_dir(&folder).unwrap().filter_map(|entry| entry.ok()) {
        for file in std::fs::read_dir(target.path()).into_iter().flatten().filter_map(|file| file.ok()) {
            assert!(expected.contains_key(&file.path()), "{} is left over, delete it", file.path().display());
        }
    }
}
