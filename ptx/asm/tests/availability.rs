//! The lists' requirements against what an assembler was seen to take: `availability.tsv` holds, for a form and each
//! target, the least `.version` that ptxas 13.5 accepted, or `-`.

use ptx_asm::{Target, forms};

#[test]
fn requirements_are_the_measured_ones() {
    let forms = forms();
    let mut lines = include_str!("availability.tsv").lines();
    let columns: Vec<_> = lines.next().unwrap().split('\t').skip(2).collect();
    assert_eq!(columns, Target::ALL.map(Target::name));
    for line in lines {
        let mut cells = line.split('\t');
        let name = cells.next().unwrap();
        cells.next();
        let named: Vec<_> = forms.iter().filter(|form| form.name == name).collect();
        assert!(!named.is_empty(), "no form {name}");
        for (target, measured) in Target::ALL.into_iter().zip(cells) {
            for form in &named {
                let ours = form.needs.version_on(target).map_or("-".into(), |v| v.to_string());
                assert_eq!(ours, measured, "{name} on {target}");
            }
        }
    }
}

#[test]
fn names_are_unique() {
    let mut names: Vec<_> = forms().into_iter().map(|f| (f.name, f.opcode)).collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}
