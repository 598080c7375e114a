// SPDX-License-Identifier: Apache-2.0
//! The committed code is what the generator makes of the `.proto` files.
//!
//! With `UPDATE_GENERATED=1` the committed code is rewritten instead of compared.

use std::{fs, path::Path};

/// Compiles `source` (relative to `folder`) and returns the one file that the generator writes for `package`.
fn generate(folder: &str, source: &str, package: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let descriptors = protox::compile([source], [folder]).expect("the .proto file compiles");
    let out = tempfile::tempdir().expect("temporary folder");
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code generation");
    let text = fs::read_to_string(out.path().join(format!("{package}.rs"))).expect("read generated code");
    format!("// SPDX-License-Identifier: Apache-2.0\n{text}")
}

/// Compares or, on request, rewrites the committed file.
fn check(committed: &str, fresh: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(committed);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(path, fresh).expect("write generated code");
    } else if fs::read_to_string(path).expect("read committed code") != fresh {
        panic!("{committed} is out of date: run UPDATE_GENERATED=1 cargo test -p go-plugin --test generated");
    }
}

#[test]
fn protocol_code_is_up_to_date() {
    check("src/generated/plugin.rs", &generate("proto", "plugin.proto", "plugin"));
}

#[test]
fn example_code_is_up_to_date() {
    check("examples/kv/generated.rs", &generate("examples/kv", "kv.proto", "kv.v1"));
}
