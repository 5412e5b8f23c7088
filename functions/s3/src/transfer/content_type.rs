//! The content types of uploads.

/// The extensions for which `mime_guess` has no content type or another one than Python 3.11's
/// `mimetypes`, from which the AWS CLI takes its types. `.js` is not in the list: its type is
/// `text/javascript`, as in RFC 9239 and in newer versions of Python.
const CLI_TYPES: [(&str, &str); 36] = [
    ("3g2", "audio/3gpp2"),
    ("3gp", "audio/3gpp"),
    ("3gpp", "audio/3gpp"),
    ("3gpp2", "audio/3gpp2"),
    ("a", "application/octet-stream"),
    ("aif", "audio/x-aiff"),
    ("aifc", "audio/x-aiff"),
    ("aiff", "audio/x-aiff"),
    ("ass", "audio/aac"),
    ("bat", "text/plain"),
    ("cdf", "application/x-netcdf"),
    ("dll", "application/octet-stream"),
    ("h5", "application/x-hdf5"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ksh", "text/plain"),
    ("loas", "audio/aac"),
    ("m3u", "application/vnd.apple.mpegurl"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("mif", "application/x-mif"),
    ("o", "application/octet-stream"),
    ("obj", "application/octet-stream"),
    ("opus", "audio/opus"),
    ("pl", "text/plain"),
    ("py", "text/x-python"),
    ("pyc", "application/x-python-code"),
    ("pyo", "application/x-python-code"),
    ("ram", "application/x-pn-realaudio"),
    ("rdf", "application/xml"),
    ("sgm", "text/x-sgml"),
    ("sgml", "text/x-sgml"),
    ("srt", "text/plain"),
    ("wav", "audio/x-wav"),
    ("wsdl", "application/xml"),
    ("xlb", "application/vnd.ms-excel"),
    ("xpdl", "application/xml"),
    ("xsl", "application/xml"),
];

/// The content type that the file's name suggests. `None` leaves the choice to S3.
pub(super) fn guess_content_type(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name
        .rsplit_once('.')
        .filter(|(stem, _)| !stem.is_empty())
        .map(|(_, extension)| extension.to_ascii_lowercase());
    let cli_type = CLI_TYPES
        .iter()
        .find(|(known, _)| extension.as_deref() == Some(known))
        .map(|(_, content_type)| *content_type);
    cli_type
        .or_else(|| mime_guess::from_path(name).first_raw())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_those_of_the_cli_and_more() {
        for (path, expected) in [
            ("in/script.py", Some("text/x-python")),
            ("STREAM.M3U8", Some("application/vnd.apple.mpegurl")),
            ("table.h5", Some("application/x-hdf5")),
            ("voice.opus", Some("audio/opus")),
            ("module.js", Some("text/javascript")),
            ("page.html", Some("text/html")),
            ("app.log", Some("text/plain")),
            ("a.tar.gz", Some("application/gzip")),
            ("py", None),
            (".py", None),
            ("a.py/readme", None),
            ("a.unknown", None),
        ] {
            assert_eq!(guess_content_type(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn each_listed_type_differs_from_the_one_of_mime_guess() {
        for (extension, content_type) in CLI_TYPES {
            let guessed = mime_guess::from_ext(extension).first_raw();
            assert_ne!(guessed, Some(content_type), "{extension}");
        }
        assert!(CLI_TYPES.is_sorted());
    }
}
