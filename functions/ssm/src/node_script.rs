//! Scripts for a node that download a file, verify it, and put it in place or run it.
//!
//! A script that fails exits with code 125 and prints a line that starts with `stepward:`. It
//! passes the link to the download program on standard input, where other users of the node cannot
//! see it. The exception is a `wget` that cannot read links from standard input, which gets the
//! link as an argument.

use std::fmt::Write as _;

use stepward::node::shell::quote;

use crate::quote::powershell_expression;
use crate::state::Digest;

/// A file to download, and how to verify it.
#[derive(Clone, Debug)]
pub struct Download<'a> {
    /// The link to the file.
    pub url: &'a str,
    /// The file's size and SHA-256.
    pub digest: &'a Digest,
}

/// Functions for `sh`. `get FILE` downloads into an existing file and exits if the file is not the
/// expected one.
const SH_FUNCTIONS: &str = r#"set -u
mask=$(umask)
umask 077
fail() { echo "stepward: $1" >&2; exit 125; }
fetch() {
  if command -v curl >/dev/null 2>&1; then
    printf 'url = "%s"\n' "$url" |
      curl -fsSg --retry 3 --connect-timeout 20 --max-time 1800 -K - -o "$1"
  elif command -v wget >/dev/null 2>&1; then
    printf '%s\n' "$url" | wget -q -T 60 -t 3 -i - -O "$1" 2>/dev/null ||
      wget -q -T 60 -O "$1" "$url"
  elif command -v python3 >/dev/null 2>&1; then
    printf '%s' "$url" | python3 -c 'import shutil, sys, urllib.request
with urllib.request.urlopen(sys.stdin.read(), timeout=60) as a, open(sys.argv[1], "wb") as f:
  shutil.copyfileobj(a, f)' "$1"
  else
    fail "no download program found; install curl, wget or python3 on the node"
  fi
}
hash() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1"
  elif command -v shasum >/dev/null 2>&1; then shasum -a 256 <"$1"
  elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r <"$1"
  elif command -v python3 >/dev/null 2>&1; then
    python3 -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
  fi | cut -c1-64
}
get() {
  fetch "$1" ||
    fail "download failed; check that the node reaches S3 (the link expires after 15 minutes)"
  actual=$(($(wc -c <"$1")))
  [ "$actual" = "$bytes" ] ||
    fail "downloaded file: expected $bytes bytes, got $actual; run the step again"
  actual=$(hash "$1")
  [ "$actual" = "$sha256" ] ||
    fail "downloaded file: expected SHA-256 $sha256, got ${actual:-none}; run the step again"
}
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
"#;

/// A script for `sh` that downloads a file and moves it to its destination.
#[must_use]
pub fn sh_copy_script(
    download: &Download<'_>,
    destination: &str,
    mode: Option<&str>,
    owner: Option<&str>,
) -> String {
    let mut script = sh_prelude(download);
    let _ = writeln!(script, "destination={}", quote(destination));
    script.push_str(
        r#"dir=${destination%/*}
[ -n "$dir" ] || dir=/
[ -d "$dir" ] || fail "directory $dir does not exist; create it before you copy the file"
[ ! -d "$destination" ] || fail "$destination is a directory; pass the path of a file in it"
file=$(mktemp "$dir/.stepward.XXXXXXXX") || fail "cannot create a file in $dir"
trap 'rm -f "$file"' EXIT
get "$file"
"#,
    );
    if let Some(owner) = owner {
        let _ = writeln!(
            script,
            "chown {} \"$file\" || fail 'cannot set the owner'",
            quote(owner)
        );
    }
    if let Some(mode) = mode {
        let _ = writeln!(
            script,
            "chmod {} \"$file\" || fail 'cannot set the mode'",
            quote(mode)
        );
    }
    script.push_str(
        "mv -f \"$file\" \"$destination\" || fail \"cannot move the file to $destination\"\n",
    );
    script
}

/// A script for `sh` that downloads a script into a private directory and runs it. `interpreter`
/// is a program and its arguments, already quoted for `sh`.
#[must_use]
pub fn sh_run_script(download: &Download<'_>, interpreter: &str, args: &[String]) -> String {
    let mut script = sh_prelude(download);
    script.push_str(
        r#"tmp=${TMPDIR:-/tmp}
dir=$(mktemp -d "$tmp/stepward.XXXXXXXX") || fail "cannot create a directory in $tmp"
trap 'rm -rf "$dir"' EXIT
get "$dir/script"
unset url
umask "$mask"
"#,
    );
    let _ = write!(script, "{interpreter} \"$dir/script\"");
    for arg in args {
        let _ = write!(script, " {}", quote(arg));
    }
    script.push_str("\nexit $?\n");
    script
}

fn sh_prelude(download: &Download<'_>) -> String {
    let Digest { bytes, sha256 } = download.digest;
    format!(
        "{SH_FUNCTIONS}url={}\nbytes={bytes}\nsha256={}\n",
        quote(download.url),
        quote(sha256)
    )
}

/// Functions for PowerShell. `Get-Fetched FILE` does what `get` does for `sh`.
const POWERSHELL_FUNCTIONS: &str = r"$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
function Fail($why) { [Console]::Error.WriteLine('stepward: ' + $why); exit 125 }
function Get-Fetched($file) {
  $tls = [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
  [Net.ServicePointManager]::SecurityProtocol = $tls
  (New-Object Net.WebClient).DownloadFile($url, $file)
  $got = (Get-Item -LiteralPath $file -Force).Length
  if ($got -ne $bytes) {
    throw ('downloaded file: expected ' + $bytes + ' bytes, got ' + $got + '; run the step again')
  }
  $sha = [Security.Cryptography.SHA256]::Create()
  $stream = [IO.File]::OpenRead($file)
  try { $got = [BitConverter]::ToString($sha.ComputeHash($stream)) } finally { $stream.Dispose() }
  $got = $got.Replace('-', '').ToLower()
  if ($got -ne $sha256) {
    throw ('downloaded file: expected SHA-256 ' + $sha256 + ', got ' + $got +
      '; run the step again')
  }
}
";

/// A script for PowerShell that downloads a file and moves it to its destination.
#[must_use]
pub fn powershell_copy_script(download: &Download<'_>, destination: &str) -> String {
    let mut script = powershell_prelude(download);
    let _ = writeln!(
        script,
        "$destination = {}",
        powershell_expression(destination)
    );
    script.push_str(
        r"$dir = [IO.Path]::GetDirectoryName($destination)
if (-not [IO.Directory]::Exists($dir)) {
  Fail ('directory ' + $dir + ' does not exist; create it before you copy the file')
}
if ([IO.Directory]::Exists($destination)) {
  Fail ($destination + ' is a directory; pass the path of a file in it')
}
$file = [IO.Path]::Combine($dir, '.stepward.' + [Guid]::NewGuid().ToString('N'))
try {
  Get-Fetched $file
  Move-Item -Force -LiteralPath $file -Destination $destination
} catch {
  Fail $_.Exception.Message
} finally {
  if ([IO.File]::Exists($file)) { [IO.File]::Delete($file) }
}
",
    );
    script
}

/// A script for PowerShell that downloads a script into a private directory and runs it.
#[must_use]
pub fn powershell_run_script(download: &Download<'_>, args: &[String]) -> String {
    let mut script = powershell_prelude(download);
    let args: Vec<_> = args.iter().map(|arg| powershell_expression(arg)).collect();
    let _ = writeln!(script, "$list = @({})", args.join(", "));
    script.push_str(
        r"$name = 'stepward.' + [Guid]::NewGuid().ToString('N')
$dir = [IO.Path]::Combine([IO.Path]::GetTempPath(), $name)
$file = [IO.Path]::Combine($dir, 'script.ps1')
$code = 0
try {
  try {
    $null = [IO.Directory]::CreateDirectory($dir)
    Get-Fetched $file
  } catch { Fail $_.Exception.Message }
  $url = $null
  $ErrorActionPreference = 'Continue'
  $global:LASTEXITCODE = 0
  try {
    & $file @list
    $code = $global:LASTEXITCODE
  } catch {
    [Console]::Error.WriteLine($_)
    $code = 1
  }
} finally {
  if ([IO.Directory]::Exists($dir)) { [IO.Directory]::Delete($dir, $true) }
}
exit $code
",
    );
    script
}

fn powershell_prelude(download: &Download<'_>) -> String {
    let Digest { bytes, sha256 } = download.digest;
    format!(
        "{POWERSHELL_FUNCTIONS}$url = {}\n$bytes = {bytes}\n$sha256 = '{sha256}'\n",
        powershell_expression(download.url)
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use stepward::model::digest::sha256;

    use super::*;

    /// Starts a server for `content` and returns the link to it.
    fn serve_content(content: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/file?X-Amz-Signature=abc%20d&x=1",
            listener.local_addr().unwrap()
        );
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap();
                let is_known =
                    request[..read].starts_with(b"GET /file?X-Amz-Signature=abc%20d&x=1 ");
                let status = if is_known { "200 OK" } else { "404 Not Found" };
                let length = content.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\
                     connection: close\r\n\r\n{content}"
                );
            }
        });
        url
    }

    fn digest(content: &str) -> Digest {
        Digest {
            bytes: content.len() as u64,
            sha256: sha256(content),
        }
    }

    /// Creates a directory for one test.
    fn create_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("stepward-ssm-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Runs a script as SSM's agent does: from a file, with `sh`.
    fn run_script(script: &str, dir: &Path, path: Option<&Path>) -> Output {
        assert!(!script.contains("{{"), "{script}");
        let file = dir.join("_script.sh");
        std::fs::write(&file, script).unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg(&file).env("TMPDIR", dir);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        std::fs::remove_file(file).unwrap();
        output
    }

    fn to_text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn file_names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Arguments that a shell or SSM could interpret as code.
    const HOSTILE_ARGUMENTS: [&str; 12] = [
        "",
        "-n",
        "it's; exit 9",
        "$(exit 9)",
        "`exit 9`",
        "a\nb\n",
        "\"; exit 9; \"",
        "{{ssm:x}}",
        "{{{",
        "*",
        "\\",
        "é 🦀",
    ];

    #[test]
    fn a_verified_file_gets_its_name_and_mode() {
        let (content, dir) = ("some\ncontent {{x}}", create_dir("copy"));
        let (url, digest) = (serve_content(content), digest(content));
        let download = Download {
            url: &url,
            digest: &digest,
        };
        for name in ["plain", "it's $(touch owned) {{x}} \"`", "-n"] {
            let path = dir.join(name);
            let output = run_script(
                &sh_copy_script(&download, path.to_str().unwrap(), Some("0640"), None),
                &dir,
                None,
            );
            assert!(output.status.success(), "{}", to_text(&output.stderr));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(
                path.metadata().unwrap().permissions().mode() & 0o7777,
                0o640
            );
            std::fs::remove_file(path).unwrap();
        }
        let path = dir.join("private");
        run_script(
            &sh_copy_script(&download, path.to_str().unwrap(), None, None),
            &dir,
            None,
        );
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(file_names(&dir), ["private"]);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_wrong_file_changes_nothing() {
        let dir = create_dir("wrong");
        let url = serve_content("content");
        let path = dir.join("file");
        std::fs::write(&path, "before").unwrap();
        let missing = url.replace("/file?", "/gone?");
        for (url, digest, expected) in [
            (&url, digest("other content"), "expected 13 bytes, got 7"),
            (&url, digest("CONTENT"), "expected SHA-256"),
            (&missing, digest("content"), "download failed"),
        ] {
            let download = Download {
                url,
                digest: &digest,
            };
            let output = run_script(
                &sh_copy_script(&download, path.to_str().unwrap(), None, None),
                &dir,
                None,
            );
            assert_eq!(output.status.code(), Some(125));
            let message = to_text(&output.stderr);
            assert!(
                message.contains(expected) && !message.contains("X-Amz-Signature"),
                "{message}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
            assert_eq!(file_names(&dir), ["file"]);
        }
        let digest = digest("content");
        let download = Download {
            url: &url,
            digest: &digest,
        };
        for (path, expected) in [
            (dir.clone(), "is a directory"),
            (dir.join("no/file"), "does not exist"),
        ] {
            let output = run_script(
                &sh_copy_script(&download, path.to_str().unwrap(), None, None),
                &dir,
                None,
            );
            assert_eq!(output.status.code(), Some(125));
            assert!(to_text(&output.stderr).contains(expected));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_script_gets_unchanged_arguments_and_returns_its_code() {
        let (script, dir) = ("printf '<%s>' \"$@\"\nexit 42\n", create_dir("run"));
        let (url, digest) = (serve_content(script), digest(script));
        let download = Download {
            url: &url,
            digest: &digest,
        };
        let args = HOSTILE_ARGUMENTS.map(String::from);
        let output = run_script(
            &sh_run_script(&download, &quote("/bin/sh"), &args),
            &dir,
            None,
        );
        assert_eq!(
            output.status.code(),
            Some(42),
            "{}",
            to_text(&output.stderr)
        );
        assert_eq!(
            to_text(&output.stdout),
            format!("<{}>", HOSTILE_ARGUMENTS.join("><"))
        );
        assert!(file_names(&dir).is_empty());
        let interpreter = format!("{} {}", quote("/usr/bin/env"), quote("sh"));
        assert_eq!(
            run_script(&sh_run_script(&download, &interpreter, &[]), &dir, None)
                .status
                .code(),
            Some(42)
        );
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_file_is_downloaded_with_any_available_program() {
        let (script, dir) = ("exit 7\n", create_dir("tools"));
        let (url, digest) = (serve_content(script), digest(script));
        let download = Download {
            url: &url,
            digest: &digest,
        };
        let bin = dir.join("bin");
        for tools in [
            &["python3"][..],
            &["wget", "sha256sum"],
            &["curl", "openssl"],
            &["curl", "shasum", "perl"],
            &[],
        ] {
            std::fs::create_dir_all(&bin).unwrap();
            let find_tool = |tool: &str| {
                ["/usr/bin", "/bin"]
                    .map(|dir| Path::new(dir).join(tool))
                    .into_iter()
                    .find(|path| path.exists())
            };
            if !tools.iter().all(|tool| find_tool(tool).is_some()) {
                // Other machines may have these tools. The first and the last case run everywhere.
                assert!(!matches!(tools, [] | ["python3"]), "no python3");
                continue;
            }
            for tool in ["sh", "mktemp", "rm", "cut", "wc"].iter().chain(tools) {
                let _ = std::os::unix::fs::symlink(find_tool(tool).unwrap(), bin.join(tool));
            }
            let output = run_script(
                &sh_run_script(&download, &quote("/bin/sh"), &[]),
                &dir,
                Some(&bin),
            );
            let expected = if tools.is_empty() { 125 } else { 7 };
            assert_eq!(
                output.status.code(),
                Some(expected),
                "{tools:?}: {}",
                to_text(&output.stderr)
            );
            std::fs::remove_dir_all(&bin).unwrap();
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn powershell_scripts_have_parameters_only_in_base64() {
        let digest = digest("x");
        let download = Download {
            url: "https://bucket/'$x",
            digest: &digest,
        };
        for value in ["it's", "‘’", "$(x)", "{{ssm:x}}", "\"@\n"] {
            for script in [
                powershell_copy_script(&download, value),
                powershell_run_script(&download, &[value.to_owned()]),
            ] {
                assert!(
                    !script.contains(value) && !script.contains("bucket") && !script.contains("{{"),
                    "{script}"
                );
                assert!(
                    script.contains(&powershell_expression(value))
                        && script.contains(&digest.sha256),
                    "{script}"
                );
            }
        }
    }
}
