//! A small backend for `make run`: answers every request with the method, the path and the header fields
//! it got, so that one sees what the gateway tells an upstream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address)?;
    eprintln!("demo upstream on {address}");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || serve(&stream));
    }
    Ok(())
}

/// Serves one connection until the gateway closes it.
fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
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
        let seen = serde_json::json!({ "method": method, "path": path, "headers": headers });
        let body = format!("{seen:#}\n");
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n",
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
