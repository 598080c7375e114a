// SPDX-License-Identifier: Apache-2.0
//! Runs the programs of a payload: its script and revocation actions. Directly, not through a shell, within a time, and
//! without the agent's own settings, which may hold passwords.

use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, Uid, User};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

/// Variables of the agent's configuration.
const OURS: &str = "KEYLIME_AGENT_";
/// What is kept of each output stream, from its beginning.
const KEPT_OUTPUT: usize = 8 << 10;
/// What the kernel reads of a script's first line, in bytes.
const MAX_FIRST_LINE: u64 = 256;
/// How long the rest of the output is waited for once the program has ended; what it has left running may hold it open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);
/// A file that was just written may be open still in a process that is being started.
const BUSY: (u32, Duration) = (10, Duration::from_millis(20));

/// Why a program did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("cannot be started: its interpreter {0:?} (first line) does not exist")]
    Interpreter(PathBuf),
    #[error("did not end within {} s and was killed with all that it had started", .0.as_secs())]
    TimeOut(Duration),
    #[error("cannot be waited for: {0}")]
    Wait(#[source] io::Error),
    #[error("ended with {0}")]
    Status(ExitStatus),
}

impl ProgramError {
    /// To be added to the message: the option that limits the time, if that was over.
    pub(crate) fn limit_of(&self, option: &str) -> String {
        match self {
            Self::TimeOut(_) => format!(" (option '{option}')"),
            _ => String::new(),
        }
    }
}

/// The user that root has changed to, if it has an entry in the user database; unset if nothing was changed.
static CHANGED_TO: OnceLock<Option<User>> = OnceLock::new();

/// Has programs find the variables of this user, and not those of root. To be called once, after the change.
pub(crate) fn changed_to(user: u32) {
    // Without an entry, or if it cannot be read, root's variables are taken away all the same.
    let _ = CHANGED_TO.set(User::from_uid(Uid::from_raw(user)).ok().flatten());
}

/// Sets what login(1) sets for a user that has an entry, and removes it for one that has none.
fn set_user(command: &mut Command, user: Option<&User>) {
    match user {
        Some(user) => command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name),
        None => command.env_remove("HOME").env_remove("USER").env_remove("LOGNAME"),
    };
}

/// What a program has written; at most 8 KiB of each stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program in a folder and waits for its end. It is killed, with all processes of its group, when the time is over
/// or this future is dropped. What it has started in the background may stay when it ends by itself.
pub(crate) async fn run(
    program: &Path,
    argument: Option<&Path>,
    folder: &Path,
    limit: Duration,
) -> (Output, Result<(), ProgramError>) {
    let mut output = Output::default();
    let mut child = match start(program, argument, folder).await {
        Ok(child) => child,
        Err(error) => return (output, Err(not_started(error, program, folder))),
    };
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let result = {
        let mut reading = std::pin::pin!(async {
            tokio::join!(read(stdout, &mut output.stdout), read(stderr, &mut output.stderr));
        });
        let mut time_out = std::pin::pin!(tokio::time::sleep(limit));
        let mut is_read = false;
        let result = loop {
            tokio::select! {
                status = child.wait() => break match status {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(ProgramError::Status(status)),
                    Err(error) => Err(ProgramError::Wait(error)),
                },
                () = &mut reading, if !is_read => is_read = true,
                () = &mut time_out => break Err(ProgramError::TimeOut(limit)),
            }
        };
        match result {
            Err(ProgramError::TimeOut(_)) => {
                group.kill();
                // Ends at once, being killed.
                let _ = child.wait().await;
            }
            _ => group.0 = None,
        }
        if !is_read {
            let _ = tokio::time::timeout(LAST_OUTPUT, reading).await;
        }
        result
    };
    (output, result)
}

/// The kernel says the same whether the program or its interpreter is missing.
fn not_started(error: io::Error, program: &Path, folder: &Path) -> ProgramError {
    if error.kind() == io::ErrorKind::NotFound
        && let Some(interpreter) = interpreter(program)
        && !folder.join(&interpreter).exists()
    {
        return ProgramError::Interpreter(interpreter);
    }
    ProgramError::Start(error)
}

/// What the first line of a script names after "#!" (execve(2)).
pub(crate) fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    std::fs::File::open(script).ok()?.take(MAX_FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| b" \t".contains(byte)).filter(|word| !word.is_empty());
    words.next().map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

async fn start(program: &Path, argument: Option<&Path>, folder: &Path) -> io::Result<Child> {
    let (tries, pause) = BUSY;
    let mut through_shell = false;
    let mut busy = 0;
    loop {
        let mut command = if through_shell {
            let mut command = Command::new("/bin/sh");
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(argument).current_dir(folder).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(OURS.as_bytes())) {
            command.env_remove(name);
        }
        if let Some(name) = tpm::tcti::own_variable() {
            command.env_remove(name);
        }
        if let Some(user) = CHANGED_TO.get() {
            set_user(&mut command, user.as_ref());
        }
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && busy < tries => {
                busy += 1;
                tokio::time::sleep(pause).await;
            }
            // A script without "#!" in its first line, which POSIX's execvp hands to the shell as a file.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOEXEC as i32) && !through_shell => {
                through_shell = true;
            }
            result => return result,
        }
    }
}

/// The process group of a running program, which is killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // It may have ended just now.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads a stream to its end, so that its writer does not wait, and keeps the beginning.
async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &mut String) {
    let Some(mut stream) = stream else { return };
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        let room = KEPT_OUTPUT - bytes.len();
        if room > 0 {
            bytes.extend(chunk.iter().take(length.min(room)));
            // Each time, for this may not be asked to go on.
            *kept = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    struct Lab(tempfile::TempDir);

    impl Lab {
        fn script(text: &str) -> (Self, PathBuf) {
            let lab = Self(tempfile::tempdir().unwrap());
            let path = lab.0.path().join("script with spaces; $(x)");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            (lab, path)
        }

        async fn run(&self, path: &Path, limit: Duration) -> (Output, Result<(), String>) {
            let (output, result) = run(path, Some(Path::new("$HOME")), self.0.path(), limit).await;
            (output, result.map_err(|error| error.to_string()))
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "current_thread")]
    async fn ends_and_output() {
        for (text, stdout, stderr, result) in [
            ("#!/bin/sh\necho \"$1\"; echo err >&2", "$HOME\n", "err\n", Ok(())),
            ("echo no first line; exit 3", "no first line\n", "", Err("ended with exit status: 3")),
            ("#!/bin/sh\nkill -9 $$", "", "", Err("ended with signal: 9 (SIGKILL)")),
            (
                "#! /no/such/python -u\n",
                "",
                "",
                Err("cannot be started: its interpreter \"/no/such/python\" (first line) does not exist"),
            ),
            (
                "#!/bin/sh\r\nexit\r\n",
                "",
                "",
                Err("cannot be started: its interpreter \"/bin/sh\\r\" (first line) does not exist"),
            ),
        ] {
            let (lab, path) = Lab::script(text);
            let (output, ended) = lab.run(&path, LONG).await;
            assert_eq!((output.stdout.as_str(), output.stderr.as_str()), (stdout, stderr), "{text}");
            assert_eq!(ended, result.map_err(str::to_owned));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_program_and_the_user_of_one() {
        let missing = Path::new("/no/such/program");
        let (_, ended) = run(missing, None, Path::new("/"), LONG).await;
        assert_eq!(ended.unwrap_err().to_string(), "cannot be started: No such file or directory (os error 2)");
        let nobody = User::from_uid(Uid::from_raw(65534)).unwrap().unwrap();
        let home = nobody.dir.display();
        let known = format!("{home} {name} {name}\n", name = nobody.name);
        for (user, said) in [(Some(&nobody), known.as_str()), (None, "none none none\n")] {
            let mut command = Command::new("sh");
            command.args(["-c", "echo ${HOME-none} ${USER-none} ${LOGNAME-none}"]);
            set_user(command.envs([("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root")]), user);
            assert_eq!(String::from_utf8(command.output().await.unwrap().stdout).unwrap(), said);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_time_is_limited_for_all_that_it_has_started() {
        let (lab, path) = Lab::script("#!/bin/sh\nsleep 1000 &\necho $! > child; echo begun; wait");
        let (output, ended) = lab.run(&path, Duration::from_secs(1)).await;
        assert_eq!(ended.unwrap_err(), "did not end within 1 s and was killed with all that it had started");
        assert_eq!(output.stdout, "begun\n");
        let child: i32 = std::fs::read_to_string(lab.0.path().join("child")).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Gone, or not yet buried by whoever has inherited it.
        test_support::wait::until("end of the child", LONG, || {
            Ok((state().is_empty() || state().contains(") Z ")).then_some(()))
        })
        .unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_runs_on_does_not_hold_us_up() {
        let (lab, path) = Lab::script("#!/bin/sh\nsleep 30 &\necho $! > child; echo done");
        let (output, ended) = lab.run(&path, LONG).await;
        assert_eq!((ended, output.stdout.as_str()), (Ok(()), "done\n"));
        let child: i32 = std::fs::read_to_string(lab.0.path().join("child")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(child), Signal::SIGKILL).unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_stops_waiting_stops_the_program() {
        let (lab, path) = Lab::script("#!/bin/sh\nsleep 1000 &\necho $! > child.new; mv child.new child; wait");
        let file = lab.0.path().join("child");
        {
            let mut running = std::pin::pin!(lab.run(&path, LONG));
            while !file.exists() {
                let tick = tokio::time::sleep(Duration::from_millis(5));
                tokio::select! {
                    _ = &mut running => panic!("it ended by itself"),
                    () = tick => {}
                }
            }
        }
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        test_support::wait::until("end of the child", LONG, || {
            Ok((state().is_empty() || state().contains(") Z ")).then_some(()))
        })
        .unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn much_output_is_cut() {
        let (lab, path) = Lab::script("#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x");
        let (output, ended) = lab.run(&path, LONG).await;
        assert_eq!((ended, output.stdout.len()), (Ok(()), KEPT_OUTPUT));
    }
}
