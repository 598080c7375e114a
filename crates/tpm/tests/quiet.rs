// SPDX-License-Identifier: Apache-2.0
//! libtss2 prints nothing by itself, unless the user wants it to.

use std::process::{Command, Output};
use tpm::{Tpm, TpmSettings};

const CHILD: &str = "TPM_QUIET_TEST_CHILD";

/// Nothing listens on this port: the kernel keeps 1 for nobody, and binding it takes root.
const NOBODY: &str = "swtpm:host=127.0.0.1,port=1";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        assert!(tpm::tcti::silence_library_log());
        let settings = TpmSettings { tcti: Some(NOBODY.to_owned()), ..TpmSettings::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime.expect("a runtime").block_on(Tpm::open(settings)) {
            Ok(_) => println!("opened"),
            Err(error) => println!("{error}"),
        }
        return;
    }
    let silent = run(&[]);
    assert_eq!(text(&silent.stderr), "", "libtss2 wrote on standard error");
    assert_eq!(
        text(&silent.stdout),
        "cannot open the TPM through TCTI `swtpm:host=127.0.0.1,port=1`: input/output error (0x000a000a); is the \
         software TPM running there, and is its TCTI library installed (Debian: libtss2-tcti-swtpm0 or \
         libtss2-tcti-mssim0)?\n"
    );
    let wanted = run(&[("TSS2_LOG", "all+error")]);
    assert!(text(&wanted.stderr).contains("ERROR:tcti:"), "the user's setting was not kept");
    println!("quiet: ok");
}

fn run(variables: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().expect("the test knows its own file");
    let mut command = Command::new(program);
    command.env(CHILD, "1").env_remove("TSS2_LOG").envs(variables.iter().copied());
    command.output().expect("the test can run itself")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
