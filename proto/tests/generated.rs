// SPDX-License-Identifier: Apache-2.0
//! The committed code is what the generator makes of the `.proto` files.
//!
//! With `UPDATE_GENERATED=1` the committed code is rewritten instead of compared.

use std::{collections::BTreeMap, fs, path::Path};

/// Text of every file in `dir`, by file name.
fn files(dir: &Path) -> BTreeMap<String, String> {
    fs::read_dir(dir)
        .expect("list generated code")
        .map(|entry| {
            let entry = entry.expect("list generated code");
            let name = entry.file_name().into_string().expect("file name");
            (name, fs::read_to_string(entry.path()).expect("read generated code"))
        })
        .collect()
}

#[test]
fn committed_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = [
        "spire/agent_nodeattestor.proto",
        "spire/config.proto",
        "spire/init.proto",
        "spire/metrics.proto",
        "spire/server_nodeattestor.proto",
    ];
    let descriptors = protox::compile(sources, [root]).expect("the .proto files compile");

    let fresh = tempfile::tempdir().expect("temporary folder");
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .expect("code generation");
    let fresh: BTreeMap<_, _> = files(fresh.path())
        .into_iter()
        .map(|(name, text)| (name, format!("// SPDX-License-Identifier: Apache-2.0\n{text}")))
        .collect();

    let committed = root.join("src/generated");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        for (name, text) in &fresh {
            fs::write(committed.join(name), text).expect("write generated code");
        }
        for name in files(&committed).keys().filter(|name| !fresh.contains_key(*name)) {
            fs::remove_file(committed.join(name)).expect("remove stale code");
        }
    } else if files(&committed) != fresh {
        panic!("proto/src/generated is out of date: run UPDATE_GENERATED=1 cargo test -p spire-proto --test generated");
    }
}
