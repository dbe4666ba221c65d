//! The model itself: its steps make the folder, and every difference of a copy is seen.

use super::disk::differences;
use super::steps::Step;
use super::tree::{Model, Node};
use super::world::World;
use crate::support::stress::chance;
use crate::support::{Lab, set_mtime};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Without a run: the steps do the same to the disk and to the model.
#[test]
fn the_model_is_the_folder() {
    let mut world = World::new(chance().next(), true, 1000);
    for _ in 0..40 {
        world.live(10);
        let wrong = differences(&world.model, &world.src, true);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn every_defect_of_a_copy_is_seen() {
    let lab = Lab::new();
    let src = lab.dir("src");
    let mut model = Model::default();
    let file = |path: &str, size| Step::Create { path: path.into(), size, seed: 1, mode: 0o644 };
    let folder = |path: &str| Step::Folder { path: path.into(), mode: 0o755 };
    for step in [
        folder("d"),
        file("d/file", 5000),
        file("other", 5000),
        Step::Link { path: "link".into(), target: "d/file".into() },
        Step::HardLink { path: "hard".into(), of: "d/file".into() },
        folder("empty"),
    ] {
        model.apply(&step);
        super::disk::apply(&src, &step);
    }
    super::disk::set_metadata(&src, &model);
    assert_eq!(differences(&model, &src, true), Vec::<String>::new());
    let keep_time = |path: &Path, change: &dyn Fn(&Path)| {
        let time = fs::symlink_metadata(path).unwrap().modified().unwrap();
        change(path);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage; 12] = [
        ("\"other\" has other content", &|dst| {
            keep_time(&dst.join("other"), &|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[4999] ^= 1;
                fs::write(path, bytes).unwrap();
            })
        }),
        ("\"other\" has other content", &|dst| {
            keep_time(&dst.join("other"), &|path| {
                fs::File::options().write(true).open(path).unwrap().set_len(4999).unwrap()
            })
        }),
        ("\"other\" has mode 600", &|dst| {
            fs::set_permissions(dst.join("other"), Permissions::from_mode(0o600)).unwrap()
        }),
        ("\"empty\" has mode 700", &|dst| {
            fs::set_permissions(dst.join("empty"), Permissions::from_mode(0o700)).unwrap()
        }),
        ("\"other\" is of 5", &|dst| set_mtime(&dst.join("other"), 5)),
        ("\"link\" is of 5", &|dst| set_mtime(&dst.join("link"), 5)),
        ("\"empty\" is of 5", &|dst| set_mtime(&dst.join("empty"), 5)),
        ("\"link\" goes to", &|dst| {
            fs::remove_file(dst.join("link")).unwrap();
            std::os::unix::fs::symlink("elsewhere", dst.join("link")).unwrap();
        }),
        ("are not one file", &|dst| {
            let bytes = fs::read(dst.join("hard")).unwrap();
            fs::remove_file(dst.join("hard")).unwrap();
            fs::write(dst.join("hard"), bytes).unwrap();
        }),
        ("are one file", &|dst| {
            fs::remove_file(dst.join("other")).unwrap();
            fs::hard_link(dst.join("hard"), dst.join("other")).unwrap();
        }),
        ("\"empty\" is missing", &|dst| fs::remove_dir(dst.join("empty")).unwrap()),
        ("is too much", &|dst| fs::write(dst.join("d/more"), "").unwrap()),
    ];
    for (number, (what, damage)) in damages.into_iter().enumerate() {
        let dst = lab.path(&format!("dst-{number}"));
        assert!(Command::new("cp").arg("-a").arg(&src).arg(&dst).status().unwrap().success());
        assert_eq!(differences(&model, &dst, true), Vec::<String>::new());
        damage(&dst);
        let seen = differences(&model, &dst, true);
        assert!(seen.iter().any(|line| line.contains(what)), "{what} is not seen: {seen:?}");
    }
}

/// A bound that is always large would show nothing.
#[test]
fn the_cost_of_a_step_is_what_it_changes() {
    const MIB: u64 = 1 << 20;
    let create = |path: &str, size: u64| Step::Create {
        path: path.into(),
        size: size as usize,
        seed: size,
        mode: 0o644,
    };
    let mut model = Model::default();
    for step in [create("large", 20 * MIB), create("small", 5000), create("other", 3 * MIB)] {
        model.apply(&step);
    }
    let cost = |steps: &[Step]| {
        let mut after = model.clone();
        steps.iter().for_each(|step| after.apply(step));
        after.cost_after(&model).0
    };
    let insert = |path: &str| Step::Insert { path: path.into(), at: 7, length: 10, seed: 1, replace: true };
    let rename = |from: &str, to: &str| Step::Rename { from: from.into(), to: to.into() };
    assert_eq!(cost(&[]), 0);
    assert_eq!(cost(&[rename("large", "moved"), Step::Copy { from: "other".into(), to: "copy".into() }]), 0);
    assert_eq!(cost(&[Step::Swap { a: "large".into(), b: "small".into() }]), 0);
    assert_eq!(cost(&[insert("small")]), 5010);
    assert!(cost(&[insert("large")]) < 2 * MIB && cost(&[insert("large"), insert("large")]) < 3 * MIB);
    // The previous row of another name does not count.
    assert_eq!(cost(&[rename("large", "moved"), insert("moved")]), 20 * MIB + 10);
    assert_eq!(cost(&[Step::Swap { a: "large".into(), b: "other".into() }, insert("large")]), 3 * MIB + 10);
    assert_eq!(cost(&[create("twice", 4321), Step::Copy { from: "twice".into(), to: "again".into() }]), 4321);
    assert!(matches!(model.names["large"], Node::File(_)));
}
