// SPDX-License-Identifier: Apache-2.0
//! The seeds of the fuzz target are logs of the builder. `UPDATE_GENERATED=1` writes them anew.

use std::path::Path;

use tpm_wire::hash::HashAlgorithm::{Sha1, Sha256, Sha384};

use super::*;

#[test]
fn the_seeds_are_what_the_builder_writes() {
    let unknown = vec![(SHA3_256, 32), (Sha256.tpm_id(), 32)];
    let seeds = [
        ("on", ordinary(&[Sha256], Some(3), &[1]).bytes()),
        ("off", ordinary(&[Sha1, Sha256, Sha384], None, &[0]).bytes()),
        ("unknown-algorithm", Builder::announcing(unknown).secure_boot(&[1]).separator(7).bytes()),
        ("twice", Builder::new(&[Sha256]).secure_boot(&[1]).secure_boot(&[0]).separator(7).secure_boot(&[1]).bytes()),
        ("no-events", Builder::new(&[Sha256]).bytes()),
        ("sha1", sha1_event(0, EV_S_CRTM_VERSION, b"1.0")),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/boot_log");
    for (name, bytes) in seeds {
        let file = folder.join(format!("{name}.bin"));
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        assert!(std::fs::read(&file).unwrap() == bytes, "{} is not what the builder writes", file.display());
    }
}
