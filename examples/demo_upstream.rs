//! A small backend for `make run`: answers every request with the method, the path and the header fields
//! it got, so that one sees what the gateway tells an upstream. With a folder it serves that one's files below
//! `/app`: `demo_upstream ADDRESS [FOLDER]`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let folder = arguments.next();
    let listener = TcpListener::bind(&address)?;
    eprintln!("demo upstream on {address}");
    for stream in listener.incoming().flatten() {
        let folder = folder.clone();
        std::thread::spawn(move || serve(&stream, folder.as_deref()));
    }
    Ok(())
}

/// Serves one connection until the gateway closes it.
fn serve(mut stream: &TcpStream, folder: Option<&str>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut parts = line.split_whitespace();
        let (method, path) =
            (parts.next().unwrap_or_default().to_owned(), parts.next().unwrap_or_default().to_owned());
        let mut headers = serde_json::Map::new();
        let mut length = 0;
        let mut chunked = false;
        loop {
            let mut field = String::new();
            if reader.read_line(&mut field)? == 0 || field.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = field.trim_end().split_once(':') {
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap_or(0);
                }
                chunked |= name.eq_ignore_ascii_case("transfer-encoding");
                headers.insert(name.to_owned(), value.trim().into());
            }
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
        let (kind, body) = folder.and_then(|folder| file(folder, &path)).unwrap_or_else(|| {
            let seen = serde_json::json!({ "method": method, "path": path, "headers": headers });
            ("application/json", format!("{seen:#}\n"))
        });
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{}\r\n",
            body.len(),
            if chunked { "Connection: close\r\n" } else { "" }
        );
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            stream.write_all(body.as_bytes())?;
        }
        if chunked {
            // Its end is not looked for, so nothing after it can be read.
            return stream.shutdown(std::net::Shutdown::Write);
        }
    }
}

/// A file of the page with its type, and that nothing but the page's own files may run in it. Names lie directly
/// in the folder.
fn file(folder: &str, path: &str) -> Option<(&'static str, String)> {
    let name = match path.strip_prefix("/app")? {
        "" | "/" => "index.html",
        rest => rest.strip_prefix('/').filter(|name| !name.contains('/'))?,
    };
    let kind = match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8\r\nContent-Security-Policy: default-src 'self'; img-src data:",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        _ => return None,
    };
    Some((kind, std::fs::read_to_string(Path::new(folder).join(name)).ok()?))
}
