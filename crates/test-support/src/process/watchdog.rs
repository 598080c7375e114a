// SPDX-License-Identifier: Apache-2.0
//! A shell that kills all sessions of this process once this process is gone.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;

use nix::unistd::Pid;

/// Reads `+ ID` and `- ID` until the pipe closes, then kills the processes of the sessions still listed. Field 4
/// after the program's name in `/proc/PID/stat` is the session.
const SCRIPT: &str = r#"
list=" "
while read -r op id; do
  case "$op" in
    +) list="$list$id " ;;
    -) case "$list" in *" $id "*) list="${list%% "$id" *} ${list#* "$id" }" ;; esac ;;
  esac
done
[ "$list" = " " ] && exit 0
for pass in 1 2 3; do
  for stat in /proc/[0-9]*/stat; do
    { read -r line < "$stat"; } 2>/dev/null || continue
    set -- ${line##*) }
    case "$list" in *" $4 "*) pid="${stat#/proc/}"; kill -9 "${pid%/stat}" 2>/dev/null ;; esac
  done
done
"#;

static PIPE: LazyLock<Option<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: one async-signal-safe system call. In a session of its own a Ctrl-C at the terminal does not end it.
    unsafe { shell.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?)) };
    shell.spawn().ok()?.stdin
});

/// Starts the watchdog if it does not run yet. To be called before the first [`add`].
pub(super) fn start() {
    LazyLock::force(&PIPE);
}

/// Has a session killed when this process ends. Allocates nothing, for it runs between fork and exec.
pub(super) fn add(session: Pid) {
    tell('+', session.as_raw().cast_unsigned());
}

/// Forgets a session that has ended, whose number may belong to somebody else by then.
pub(super) fn remove(session: u32) {
    tell('-', session);
}

fn tell(op: char, session: u32) {
    let Some(pipe) = PIPE.as_ref() else { return };
    let mut line = [0_u8; 16];
    let mut rest = line.as_mut_slice();
    let fits = writeln!(rest, "{op} {session}").is_ok();
    let left = rest.len();
    if let Some(text) = line.get(..line.len() - left).filter(|_| fits) {
        // So short a write is never torn. Without the watchdog the parent-death signal still ends the program itself.
        let _ = nix::unistd::write(pipe, text);
    }
}
