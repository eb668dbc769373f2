//! Held Deployments get their waiter.

use migration_gate_core::decision::Outcome;
use migration_gate_core::gates::{Config, HeldKind, LabelSelector, LogFormat};
use serde_json::{Value, json};

use crate::fixtures::{
    admitted, deployment, every_kind, mutated, other_release, pod_spec, refused, workload,
};

fn waiter(object: &Value) -> &Value {
    let containers = object["spec"]["template"]["spec"]["initContainers"]
        .as_array()
        .expect("there are init containers");
    containers
        .iter()
        .find(|container| container["name"] == "wait-for-migrations")
        .expect("the waiter is among them")
}

fn init_names(object: &Value) -> Vec<&str> {
    object["spec"]["template"]["spec"]["initContainers"]
        .as_array()
        .map_or(vec![], |list| {
            list.iter().map(|c| c["name"].as_str().unwrap()).collect()
        })
}

#[test]
fn the_waiter_is_injected_with_its_token_and_account() {
    let config = Config::default();
    let (result, decision) = mutated(&config, &deployment(json!({})), None);
    assert_eq!(decision.outcome, Outcome::Injected);
    assert_eq!(decision.gate.as_deref(), Some("piefed"));
    assert_eq!(decision.warnings, []);

    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "piefed-init-checker");
    assert_eq!(spec["serviceAccount"], "piefed-init-checker");
    assert_eq!(spec["automountServiceAccountToken"], false);
    assert_eq!(spec["volumes"][0]["name"], "migration-gate-token");
    let web = json!([{"name": "web", "image": "piefed/piefed:1.2.0"}]);
    assert_eq!(spec["containers"], web);
    let waiter = waiter(&result);
    let args = "wait --gate=piefed --namespace=piefed-application --job=piefed-db-init \
                --record=migration-gate-piefed --image=piefed/piefed:1.2.0 --timeout=600s \
                --freshness=version";
    let args: Vec<&str> = args.split(' ').collect();
    assert_eq!(waiter["args"], json!(args));
    let mount = json!({
        "name": "migration-gate-token",
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true,
    });
    assert_eq!(waiter["volumeMounts"], json!([mount]));
    for resource in ["cpu", "memory"] {
        assert!(waiter["resources"]["requests"][resource].is_string());
        assert!(waiter["resources"]["limits"][resource].is_string());
    }
}

#[test]
fn the_log_format_is_an_argument_where_it_is_not_the_default() {
    let mut config = Config::default();
    config.waiter.log_format = LogFormat::Json;
    let (result, _) = mutated(&config, &deployment(json!({})), None);
    let args = waiter(&result)["args"].as_array().expect("arguments");
    assert_eq!(args.last(), Some(&json!("--log-format=json")));
}

#[test]
fn init_containers_absent_empty_or_null_become_a_list_of_one() {
    for init in [None, Some(json!([])), Some(Value::Null)] {
        let mut object = deployment(json!({}));
        if let Some(init) = init {
            pod_spec(&mut object)["initContainers"] = init.clone();
            pod_spec(&mut object)["volumes"] = init;
        }
        let result = admitted(&Config::default(), &object, None);
        assert_eq!(init_names(&result), ["wait-for-migrations"]);
    }
}

#[test]
fn the_waiter_comes_first_and_the_others_keep_their_order() {
    let object = deployment(json!({
        "initContainers": [
            {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"},
            {"name": "assets", "image": "piefed/piefed:1.2.0", "future": {"field": [1]}},
        ],
        "volumes": [{"name": "media", "emptyDir": {}}],
    }));
    let result = admitted(&Config::default(), &object, None);
    let names = ["wait-for-migrations", "proxy", "assets"];
    assert_eq!(init_names(&result), names);
    let [given, spec] = [&object, &result].map(|object| &object["spec"]["template"]["spec"]);
    assert_eq!(spec["initContainers"][2], given["initContainers"][1]);
    assert_eq!(spec["volumes"][1]["name"], "media");
}

#[test]
fn what_is_injected_already_is_left_alone() {
    let config = Config::default();
    let mut object = admitted(&config, &deployment(json!({})), None);
    let (_, decision) = mutated(&config, &object, None);
    assert_eq!(decision.patch, []);
    assert_eq!(decision.outcome, Outcome::InPlace);

    // A mesh gave every container a variable.
    let env = &mut pod_spec(&mut object)["initContainers"][0]["env"];
    let variable = json!({"name": "MESH", "value": "1"});
    env.as_array_mut().unwrap().push(variable);
    let (_, decision) = mutated(&config, &object, None);
    assert_eq!(decision.patch, []);
}

/// As `kubectl apply` and Helm do, which merge lists: what is new comes in front.
#[test]
fn what_was_put_in_front_of_the_waiter_runs_behind_it() {
    let config = Config::default();
    let stored = admitted(&config, &deployment(json!({})), None);
    let early = |image: &str| {
        let mut object = stored.clone();
        let init = pod_spec(&mut object)["initContainers"].as_array_mut();
        let first = json!({"name": "early", "image": image});
        init.unwrap().insert(0, first);
        object
    };
    for image in ["piefed/piefed:1.2.0", "busybox:1"] {
        let (result, decision) = mutated(&config, &early(image), Some(&stored));
        assert_eq!(init_names(&result), ["wait-for-migrations", "early"]);
        assert_eq!(decision.outcome, Outcome::Replaced);
        assert_eq!(admitted(&config, &result, Some(&stored)), result);
        assert_eq!(admitted(&config, &early(image), None), result);
    }
    // Where nothing else is to change, it is moved and nothing else.
    let (_, decision) = mutated(&config, &early("piefed/piefed:1.2.0"), Some(&stored));
    let init = "/spec/template/spec/initContainers";
    let moved = json!({"op": "move", "from": format!("{init}/1"), "path": format!("{init}/0")});
    assert_eq!(json!(decision.patch), json!([moved]));
}

/// Between two calls, other webhooks sent the images through a mirror, or pinned them.
#[test]
fn what_other_webhooks_did_to_the_images_is_not_undone() {
    let config = Config::default();
    let mirrored = format!("mirror:5000/{}", config.waiter.image);
    let pinned = format!("{mirrored}@sha256:{}", "ab".repeat(32));
    for (gate, web) in [
        (mirrored.as_str(), "piefed/piefed:1.2.0"),
        (&config.waiter.image, "mirror:5000/piefed/piefed:1.2.0"),
        (&pinned, "piefed/piefed:1.2.0@sha256:cd"),
    ] {
        let (mut object, _) = mutated(&config, &deployment(json!({})), None);
        let spec = pod_spec(&mut object);
        spec["initContainers"][0]["image"] = json!(gate);
        let (again, decision) = mutated(&config, &object, None);
        assert_eq!(decision.patch, [], "{gate}");
        assert_eq!(decision.outcome, Outcome::InPlace);
        assert_eq!(again, object);
        // What the pod runs is what its waiter is told, once and for all.
        pod_spec(&mut object)["containers"][0]["image"] = json!(web);
        let (again, _) = mutated(&config, &object, None);
        let spec = &again["spec"]["template"]["spec"];
        assert_eq!(spec["containers"][0]["image"], web);
        assert_eq!(waiter(&again)["args"][5], format!("--image={web}"));
        let (same, decision) = mutated(&config, &again, None);
        assert_eq!((decision.patch, same), (vec![], again.clone()), "{web}");
        // Nor by the next apply.
        assert_eq!(admitted(&config, &again, Some(&again)), again);
        assert_eq!(waiter(&again)["image"], gate);

        // A change of something else keeps the images, and the rest is restored.
        let waiter = &mut pod_spec(&mut object)["initContainers"][0];
        waiter["securityContext"]["privileged"] = json!(true);
        assert_eq!(mutated(&config, &object, None).0, again);
    }
    // Another version is another image.
    let (mut object, _) = mutated(&config, &deployment(json!({})), None);
    pod_spec(&mut object)["initContainers"][0]["image"] = json!("mirror:5000/gate:0.0.0");
    let (again, decision) = mutated(&config, &object, None);
    assert_eq!(decision.outcome, Outcome::Replaced);
    assert_eq!(waiter(&again)["image"], config.waiter.image);
}

#[test]
fn a_hand_written_waiter_is_replaced_with_a_warning() {
    let object = deployment(json!({"initContainers": [
        {"name": "first", "image": "busybox:1"},
        {"name": "wait-for-migrations", "image": "kubectl:1", "command": ["sh", "-c", "kubectl wait …"]},
    ]}));
    let (result, decision) = mutated(&Config::default(), &object, None);
    assert_eq!(decision.outcome, Outcome::Replaced);
    assert_eq!(init_names(&result), ["wait-for-migrations", "first"]);
    assert_eq!(waiter(&result)["command"], Value::Null);
    assert_eq!(decision.warnings.len(), 1);
    let warning = decision.warnings[0].to_string();
    let at = "spec.template.spec.initContainers[1]: the hand-written";
    assert!(warning.starts_with(at), "{warning}");
}

#[test]
fn a_hand_written_waiter_merged_into_ours_brings_no_new_generation() {
    // Under server-side apply the applier's fields land in the stored container.
    let config = Config::default();
    let stored = admitted(&config, &deployment(json!({})), None);
    let mut merged = stored.clone();
    pod_spec(&mut merged)["initContainers"][0]["image"] = json!("kubectl:1");
    pod_spec(&mut merged)["initContainers"][0]["command"] = json!(["sh"]);
    assert_eq!(admitted(&config, &merged, Some(&stored)), stored);
}

#[test]
fn names_that_the_waiter_needs_are_refused_where_they_stand() {
    let config = Config::default();
    let container = deployment(json!({"containers": [
        {"name": "web", "image": "web:1"},
        {"name": "wait-for-migrations", "image": "web:1"},
    ]}));
    let (result, decision) = mutated(&config, &container, None);
    assert_eq!(result, container);
    let field = decision.violations[0].field.to_string();
    assert_eq!(field, "spec.template.spec.containers[1].name");
    let volume = deployment(json!({"volumes": [{"name": "migration-gate-token", "emptyDir": {}}]}));
    let fields = refused(&config, &volume, None);
    assert_eq!(fields[0], "spec.template.spec.volumes[0].name");
}

#[test]
fn the_account_is_set_only_where_there_is_none() {
    let check = |given: Value, account: &str, automount: Value, warned: bool| {
        let (result, decision) = mutated(&Config::default(), &deployment(given.clone()), None);
        let spec = &result["spec"]["template"]["spec"];
        let effective = [&spec["serviceAccountName"], &spec["serviceAccount"]]
            .into_iter()
            .find(|v| v.as_str().is_some_and(|v| !v.is_empty()));
        assert_eq!(effective.unwrap(), account, "{given}");
        assert_eq!(spec["automountServiceAccountToken"], automount, "{given}");
        assert_eq!(!decision.warnings.is_empty(), warned, "{given}");
    };
    let gates_own = "piefed-init-checker";
    for given in [
        json!({}),
        json!({"serviceAccountName": null, "serviceAccount": ""}),
        json!({"serviceAccountName": "default", "serviceAccount": "default"}),
        json!({"serviceAccountName": "piefed-init-checker"}),
        // `serviceAccountName` wins over the deprecated field, as in the API server.
        json!({"serviceAccountName": "default", "serviceAccount": "cloud"}),
        json!({"automountServiceAccountToken": null}),
        json!({"automountServiceAccountToken": false}),
    ] {
        check(given, gates_own, json!(false), false);
    }
    for given in [
        json!({"serviceAccountName": "cloud"}),
        json!({"serviceAccount": "cloud"}),
        json!({"serviceAccountName": "cloud", "serviceAccount": "default"}),
    ] {
        check(given, "cloud", Value::Null, true);
    }
    let mounts = json!({"automountServiceAccountToken": true});
    check(mounts, gates_own, json!(true), true);
    let both = json!({"serviceAccountName": "cloud", "automountServiceAccountToken": true});
    check(both, "cloud", json!(true), true);
}

#[test]
fn both_account_fields_are_set_together() {
    let object = deployment(json!({"serviceAccountName": "default", "serviceAccount": "cloud"}));
    let result = admitted(&Config::default(), &object, None);
    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "piefed-init-checker");
    assert_eq!(spec["serviceAccount"], "piefed-init-checker");
}

#[test]
fn an_application_that_mounts_a_token_itself_keeps_its_mount() {
    let mount =
        json!([{"name": "own", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]);
    let object = deployment(json!({
        "containers": [{"name": "web", "image": "piefed/piefed:1.2.0", "volumeMounts": mount}],
        "volumes": [{"name": "own", "emptyDir": {}}],
    }));
    let result = admitted(&Config::default(), &object, None);
    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["volumes"].as_array().unwrap().len(), 2);
    assert_eq!(waiter(&result)["volumeMounts"].as_array().unwrap().len(), 1);
}

#[test]
fn settings_of_the_pod_do_not_matter() {
    for given in [
        json!({"hostNetwork": true}),
        json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false}}),
    ] {
        let result = admitted(&Config::default(), &deployment(given.clone()), None);
        let spec = result["spec"]["template"]["spec"].as_object().unwrap();
        for (key, value) in given.as_object().unwrap() {
            assert_eq!(&spec[key], value);
        }
        assert_eq!(waiter(&result)["securityContext"]["runAsNonRoot"], true);
    }
    let mut scaled_down = deployment(json!({}));
    scaled_down["spec"]["replicas"] = json!(0);
    let result = admitted(&Config::default(), &scaled_down, None);
    assert_eq!(init_names(&result), ["wait-for-migrations"]);
}

#[test]
fn unknown_fields_odd_keys_and_managed_fields_survive() {
    let mut object = deployment(json!({"x-future": {"a/b": 1, "c~d": [null]}}));
    object["metadata"]["annotations"] = json!({"a/b~c": "~1/~0"});
    object["metadata"]["managedFields"] = json!([{"manager": "flux", "fieldsV1": {"f:spec": {}}}]);
    let result = admitted(&Config::default(), &object, None);
    assert_eq!(result["metadata"], object["metadata"]);
    assert_eq!(
        result["spec"]["template"]["spec"]["x-future"],
        object["spec"]["template"]["spec"]["x-future"]
    );
}

#[test]
fn the_version_is_that_of_the_default_container() {
    let mut object = deployment(json!({"containers": [
        {"name": "proxy", "image": "proxy:7"},
        {"name": "web", "image": "piefed/piefed:1.2.0"},
    ]}));
    let image = |object: &Value| admitted(&Config::default(), object, None);
    let argument = |result: &Value| waiter(result)["args"][5].as_str().unwrap().to_owned();
    assert_eq!(argument(&image(&object)), "--image=proxy:7");
    object["spec"]["template"]["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/default-container": "web"});
    assert_eq!(argument(&image(&object)), "--image=piefed/piefed:1.2.0");
}

#[test]
fn nothing_but_a_held_deployment_is_touched() {
    let config = Config::default();
    let untouched = |object: Value| {
        let (result, decision) = mutated(&config, &object, None);
        assert_eq!(result, object);
        assert_eq!(decision.outcome, Outcome::Untouched);
        assert_eq!(decision.gate, None);
    };
    let set = |pointer: &str, value: Value| {
        let mut object = deployment(json!({}));
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    untouched(set("/metadata/name", json!("redis")));
    untouched(set("/metadata/namespace", json!("elsewhere")));
    untouched(set("/kind", json!("StatefulSet")));
    untouched(set("/apiVersion", json!("example.org/v1")));
    let mut job = set("/kind", json!("Job"));
    job["apiVersion"] = json!("batch/v1");
    job["metadata"]["name"] = json!("piefed-db-init");
    untouched(job);
    let mut leaving = deployment(json!({}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    untouched(leaving);
}

/// The mutating webhook is called before the API server generates the name.
#[test]
fn a_name_that_is_yet_to_be_generated_is_held_by_its_pattern() {
    let config = every_kind(json!({}));
    for kind in HeldKind::ALL {
        for (start, outcome) in [("web-", Outcome::Injected), ("other-", Outcome::Untouched)] {
            let mut object = workload(kind, json!({"containers": [{"name": "c", "image": "i:1"}]}));
            object["metadata"] = json!({"generateName": start, "namespace": "shop"});
            let (_, decision) = mutated(&config, &object, None);
            assert_eq!(decision.outcome, outcome, "{object}");
        }
    }
}

#[test]
fn a_gate_holds_by_label_too() {
    let mut config = Config::default();
    config.gates[0].deployments.clear();
    config.gates[0].selector = Some(LabelSelector {
        match_labels: [("part-of".to_owned(), "piefed".to_owned())].into(),
        match_expressions: vec![],
    });
    let mut object = deployment(json!({}));
    let outcome = |object: &Value| mutated(&config, object, None).1.outcome;
    assert_eq!(outcome(&object), Outcome::Untouched);
    object["metadata"]["labels"] = json!({"part-of": "piefed"});
    assert_eq!(outcome(&object), Outcome::Injected);
}

#[test]
fn a_selector_can_leave_out_what_the_job_needs() {
    let config: Config = serde_json::from_value(json!({"gates": [{
        "name": "g", "namespace": "piefed-application", "job": "j", "serviceAccount": "s",
        "selector": {
            "matchLabels": {"part-of": "piefed"},
            "matchExpressions": [{"key": "component", "operator": "NotIn", "values": ["redis"]}],
        },
    }]}))
    .unwrap();
    let mut object = deployment(json!({}));
    object["metadata"]["labels"] = json!({"part-of": "piefed", "component": "redis"});
    let outcome = |object: &Value| mutated(&config, object, None).1.outcome;
    assert_eq!(outcome(&object), Outcome::Untouched);
    object["metadata"]["labels"]["component"] = json!("web");
    assert_eq!(outcome(&object), Outcome::Injected);
}

/// An update by server-side apply carries what is stored; one by PUT, what the author wrote.
#[test]
fn upgrading_this_program_restarts_nothing() {
    let stored = admitted(&other_release(), &deployment(json!({})), None);
    let new = Config::default();
    let (result, decision) = mutated(&new, &stored, Some(&stored));
    assert_eq!(result, stored);
    assert_eq!(decision.outcome, Outcome::InPlace);
    assert_eq!(decision.patch, []);

    let put = deployment(json!({}));
    let (result, decision) = mutated(&new, &put, Some(&stored));
    assert_eq!(result["spec"]["template"], stored["spec"]["template"]);
    assert_eq!(decision.outcome, Outcome::Kept);
    admitted(&new, &put, Some(&stored));

    // What lies outside the template is no reason either.
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(7);
    scaled["metadata"]["annotations"] = json!({"note": "x"});
    assert_eq!(admitted(&new, &scaled, Some(&stored)), scaled);
}

/// Releases up to 0.1 left the waiter where an apply had put it.
#[test]
fn what_is_kept_stays_in_its_place() {
    let written = deployment(json!({
        "initContainers": [{"name": "early", "image": "busybox:1"}],
        "volumes": [{"name": "media", "emptyDir": {}}],
    }));
    let mut stored = admitted(&other_release(), &written, None);
    let mut put = stored.clone();
    for (field, own) in [
        ("initContainers", "wait-for-migrations"),
        ("volumes", "migration-gate-token"),
    ] {
        let list = pod_spec(&mut stored)[field].as_array_mut();
        list.unwrap().reverse();
        let list = pod_spec(&mut put)[field].as_array_mut().unwrap();
        list.retain(|element| element["name"] != own);
    }
    let (result, decision) = mutated(&Config::default(), &put, Some(&stored));
    assert_eq!(result["spec"]["template"], stored["spec"]["template"]);
    assert_eq!(decision.outcome, Outcome::Kept);
    admitted(&Config::default(), &put, Some(&stored));
    // With the next version it comes first.
    pod_spec(&mut put)["containers"][0]["image"] = json!("piefed/piefed:1.3.0");
    let result = admitted(&Config::default(), &put, Some(&stored));
    assert_eq!(init_names(&result), ["wait-for-migrations", "early"]);
}

#[test]
fn a_changed_gate_restarts_nothing_either() {
    let old = Config::default();
    let mut new = Config::default();
    new.gates[0].timeout = std::time::Duration::from_mins(20);
    let stored = admitted(&old, &deployment(json!({})), None);
    assert_eq!(admitted(&new, &stored, Some(&stored)), stored);
    let put = admitted(&new, &deployment(json!({})), Some(&stored));
    assert_eq!(put["spec"]["template"], stored["spec"]["template"]);
}

/// A template that looks like one with a waiter can be written before a gate holds it.
#[test]
fn a_waiter_that_opens_for_more_is_not_kept() {
    let config = every_kind(json!({"movingTags": ["edge"]}));
    let kind = HeldKind::Deployment;
    let manifest = workload(
        kind,
        json!({
            "initContainers": [{"name": "assets", "image": "shop/assets:1"}],
            "containers": [
                {"name": "proxy", "image": "proxy:2.8"}, {"name": "web", "image": "shop/web:1.0"},
            ],
        }),
    );
    let good = admitted(&config, &manifest, None);
    let outcome = |change: &dyn Fn(&mut Value)| {
        let mut stored = good.clone();
        let waiter = &mut pod_spec(&mut stored)["initContainers"][0];
        change(waiter);
        let put = admitted(&config, &manifest, Some(&stored));
        let kept = put["spec"]["template"] == stored["spec"]["template"];
        assert!(kept || put["spec"]["template"] == good["spec"]["template"]);
        kept
    };
    let with = |more: &str| {
        let more = json!(more);
        outcome(&|waiter| waiter["args"].as_array_mut().unwrap().push(more.clone()))
    };
    let changed = |from: &str, to: &str| {
        outcome(&|waiter| {
            let args = waiter["args"].as_array_mut().unwrap();
            let arg = args.iter_mut().find(|arg| **arg == from);
            *arg.unwrap_or_else(|| panic!("no {from}")) = json!(to);
        })
    };
    // How long and how it says it is for each configuration.
    assert!(changed("--timeout=600s", "--timeout=90s"));
    assert!(with("--log-format=json"));
    assert!(changed(
        "--image=shop/web:1.0",
        "--image=shop/web:1.0@sha256:ab"
    ));
    for more in [
        "--kubeconfig=/app/mine",
        "--context=mine",
        "--settle=0s",
        "--freshness",
        "-n",
        "--default-image-counts",
        "--container=proxy",
        "--image=shop/web:2.0",
    ] {
        assert!(!with(more), "{more}");
    }
    for (from, to) in [
        ("--freshness=version", "--freshness=any"),
        ("--record=migration-gate-shop", "--record=mine"),
        ("--image=proxy:2.8", "--image=proxy:2.9"),
        ("--image=shop/web:1.0", "--image=shop/web:2.0"),
        ("--image=shop/web:1.0", "--init-image=shop/web:1.0"),
        ("--init-image=shop/assets:1", "--init-image=shop/assets:2"),
        ("--moving-tags=edge", "--moving-tags=*"),
        ("--moving-tags=edge", "--timeout=600s"),
        ("--job=migrate-*", "--job=nothing"),
    ] {
        assert!(!changed(from, to), "{from} {to}");
    }
    let image = |image: &'static str| outcome(&move |waiter| waiter["image"] = json!(image));
    assert!(image("migration-gate/migration-gate:0.0.9"));
    assert!(!image("busybox:1"));
    assert!(!outcome(&|waiter| waiter["command"] = json!(["true"])));
    // What releases up to 0.1 left there knows of one image alone, and pods need not restart for
    // it.
    assert!(outcome(&|waiter| {
        waiter["image"] = json!("migration-gate/migration-gate:0.0.9");
        let args = waiter["args"].as_array_mut().unwrap();
        let unknown = ["--image=shop/web", "--init-image", "--moving-tags"];
        args.retain(|arg| !unknown.iter().any(|u| arg.as_str().unwrap().starts_with(u)));
    }));
}

#[test]
fn a_changed_template_gets_the_waiter_of_this_release() {
    let stored = admitted(&other_release(), &deployment(json!({})), None);
    let new = Config::default();
    let check = |change: fn(&mut Value)| {
        for base in [stored.clone(), deployment(json!({}))] {
            let mut object = base;
            change(&mut object);
            let result = admitted(&new, &object, Some(&stored));
            assert_eq!(waiter(&result)["image"], new.waiter.image);
        }
    };
    check(|object| pod_spec(object)["containers"][0]["image"] = json!("piefed/piefed:1.3.0"));
    check(|object| {
        object["spec"]["template"]["metadata"]["annotations"] =
            json!({"kubectl.kubernetes.io/restartedAt": "2026-11-22T12:00:00Z"});
    });
    check(|object| pod_spec(object)["serviceAccountName"] = json!("cloud"));
}

#[test]
fn a_new_version_is_what_the_waiter_waits_for() {
    let config = Config::default();
    let stored = admitted(&config, &deployment(json!({})), None);
    let mut next = stored.clone();
    pod_spec(&mut next)["containers"][0]["image"] = json!("piefed/piefed:1.3.0");
    let (result, decision) = mutated(&config, &next, Some(&stored));
    assert_eq!(decision.outcome, Outcome::Replaced);
    assert_eq!(decision.warnings, []);
    assert_eq!(waiter(&result)["args"][5], "--image=piefed/piefed:1.3.0");
}

/// Installing this program restarts nothing, whatever a controller annotates meanwhile.
#[test]
fn an_existing_deployment_is_injected_when_its_template_changes() {
    let config = Config::default();
    let before = deployment(json!({}));
    let untouched = |object: &Value| {
        let (result, decision) = mutated(&config, object, Some(&before));
        assert_eq!(decision.outcome, Outcome::Untouched);
        assert_eq!(decision.warnings, []);
        assert_eq!(result, *object);
        assert_eq!(admitted(&config, object, Some(&before)), *object);
    };
    untouched(&before);
    let mut annotated = before.clone();
    annotated["metadata"]["annotations"] = json!({"field.cattle.io/publicEndpoints": "[]"});
    annotated["spec"]["replicas"] = json!(7);
    untouched(&annotated);

    let mut next = before.clone();
    next["spec"]["template"]["metadata"]["labels"]["release"] = json!("2");
    let (result, decision) = mutated(&config, &next, Some(&before));
    assert_eq!(decision.outcome, Outcome::Injected);
    assert_eq!(init_names(&result), ["wait-for-migrations"]);
}
