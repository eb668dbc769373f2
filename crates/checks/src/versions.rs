//! Properties of any images that are compared, and of any pod templates.

use migration_gate_core::gates::{Config, Gate};
use migration_gate_core::glob::Glob;
use migration_gate_core::image::{MovingTags, Reference, Relation, compare, same_through_mirror};
use migration_gate_core::version::{Containers, Contents, Wanted};
use serde_json::{Value, json};

/// Checks words: the first as a pattern of moving tags, the others as images, alone and together in
/// a pod and a Job.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    let listed = words.next().and_then(|word| Glob::parse(word).ok());
    let images: Vec<&str> = words.take(6).collect();
    let listed: Vec<Glob> = listed.into_iter().collect();
    for moving in [MovingTags::default(), MovingTags::Listed(listed.clone())] {
        for a in &images {
            let own = compare(a, a, &moving);
            assert_eq!(own == Relation::Moving, moving.moves(a), "{a}");
            assert!(own != Relation::Different, "{a}");
            assert!(Reference::of(a).version() != "" || a.is_empty());
            for b in &images {
                let relation = compare(a, b, &moving);
                assert_eq!(relation, compare(b, a, &moving), "{a} {b}");
                assert!(
                    !same_through_mirror(a, b) || relation != Relation::Different || a == b,
                    "{a} {b}"
                );
            }
        }
    }
    let middle = images.len() / 2;
    check_workloads(&images[..middle], &images[middle..], listed);
}

/// Some images in a pod, and others in a Job.
fn check_workloads(pod: &[&str], job: &[&str], listed: Vec<Glob>) {
    let template = |images: &[&str]| {
        let containers: Value = images
            .iter()
            .enumerate()
            .map(|(i, image)| json!({"name": format!("c{i}"), "image": image}))
            .collect();
        json!({"spec": {"containers": containers}})
    };
    let (pod, job) = (template(pod), template(job));
    let mut gates: Vec<Gate> = Config::default().gates;
    let mut listing = gates[0].clone();
    listing.moving_tags = Some(listed);
    let mut naming = gates[0].clone();
    naming.container = Some("c0".to_owned());
    gates.extend([listing, naming]);
    for gate in &gates {
        let Ok(wanted) = Wanted::of(gate, &pod) else {
            assert!(
                Containers::of(&pod)
                    .default()
                    .is_none_or(|c| c.image.is_empty())
            );
            continue;
        };
        let contents = Contents::of(&Value::Null, &job);
        let (relation, sides) = wanted.compared(&contents);
        assert_eq!(relation, wanted.relation(&contents));
        let (_, _) = sides.sides();
        if let Some(word) = wanted.word() {
            assert!(wanted.is_called(word), "{word} {pod}");
        }
        // If a Job and a pod have one container each, of the same image, the Job is of the pod's
        // version.
        if Containers::of(&pod).all.len() == 1 {
            let same = Contents::of(&Value::Null, &pod);
            assert!(wanted.relation(&same) != Relation::Different, "{pod}");
        }
    }
}
