//! What a column holds, as JSON, for each kind of database.

use serde_json::{Number, Value};
use sqlx::mysql::MySqlRow;
use sqlx::postgres::{PgRow, PgTypeInfo, PgTypeKind};
use sqlx::sqlite::SqliteRow;
use sqlx::types::Json;
use sqlx::{Column as _, ColumnIndex, Decode, Row, TypeInfo as _, ValueRef as _};

/// A value, or the name of its type, which is not understood.
type Read = Result<Value, String>;

pub(super) fn postgres(row: &PgRow, at: usize) -> Read {
    let raw = row.try_get_raw(at).map_err(|error| error.to_string())?;
    let kind = raw.type_info().into_owned();
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let kind = underlying(&kind);
    match kind.name() {
        "BOOL" => get::<bool, _>(row, at).map(Value::Bool),
        "INT2" => get::<i16, _>(row, at).map(Value::from),
        "INT4" => get::<i32, _>(row, at).map(Value::from),
        "INT8" => get::<i64, _>(row, at).map(Value::from),
        "FLOAT4" => single(get(row, at)),
        "FLOAT8" => double(get(row, at)),
        "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "citext" => get::<String, _>(row, at).map(Value::String),
        "JSON" | "JSONB" => get::<Json<Value>, _>(row, at).map(|json| json.0),
        "TEXT[]" | "VARCHAR[]" | "CHAR[]" | "NAME[]" | "citext[]" => {
            let texts = get::<Vec<Option<String>>, _>(row, at)?;
            Ok(texts.into_iter().flatten().map(Value::String).collect())
        }
        "UUID" => {
            let bytes =
                row.try_get_raw(at).ok().and_then(|raw| <[u8; 16]>::try_from(raw.as_bytes().ok()?).ok());
            bytes.map(|bytes| Value::String(uuid(bytes))).ok_or_else(|| "UUID".to_owned())
        }
        _ if matches!(kind.kind(), PgTypeKind::Enum(_)) => get::<String, _>(row, at).map(Value::String),
        name => Err(name.to_owned()),
    }
}

/// A domain is what it is made of.
fn underlying(kind: &PgTypeInfo) -> &PgTypeInfo {
    match kind.kind() {
        PgTypeKind::Domain(kind) => underlying(kind),
        _ => kind,
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |range| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

pub(super) fn mysql(row: &MySqlRow, at: usize) -> Read {
    let raw = row.try_get_raw(at).map_err(|error| error.to_string())?;
    let kind = raw.type_info().into_owned();
    if raw.is_null() {
        return Ok(Value::Null);
    }
    match kind.name() {
        "BOOLEAN" => get::<bool, _>(row, at).map(Value::Bool),
        "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" => get::<i64, _>(row, at).map(Value::from),
        "TINYINT UNSIGNED" | "SMALLINT UNSIGNED" | "MEDIUMINT UNSIGNED" | "INT UNSIGNED"
        | "BIGINT UNSIGNED" => get::<u64, _>(row, at).map(Value::from),
        "FLOAT" => single(get(row, at)),
        "DOUBLE" => double(get(row, at)),
        "CHAR" | "VARCHAR" | "TINYTEXT" | "TEXT" | "MEDIUMTEXT" | "LONGTEXT" | "ENUM" => {
            get::<String, _>(row, at).map(Value::String)
        }
        "JSON" => get::<Json<Value>, _>(row, at).map(|json| json.0),
        // Text that is compared byte by byte, such as MariaDB's JSON, is told apart from bytes by nothing else.
        name if name.ends_with("BLOB") || name.ends_with("BINARY") => {
            let text = get::<Vec<u8>, _>(row, at).map(String::from_utf8)?;
            text.map(Value::String).map_err(|_| name.to_owned())
        }
        name => Err(name.to_owned()),
    }
}

pub(super) fn sqlite(row: &SqliteRow, at: usize) -> Read {
    let raw = row.try_get_raw(at).map_err(|error| error.to_string())?;
    let kind = raw.type_info().into_owned();
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let boolean = row.columns().get(at).is_some_and(|column| column.type_info().name() == "BOOLEAN");
    match kind.name() {
        "INTEGER" if boolean => get::<bool, _>(row, at).map(Value::Bool),
        "INTEGER" => get::<i64, _>(row, at).map(Value::from),
        "REAL" => double(get(row, at)),
        "TEXT" => get::<String, _>(row, at).map(Value::String),
        name => Err(name.to_owned()),
    }
}

/// What cannot be decoded is named by why; that does not quote it.
fn get<'r, T, R>(row: &'r R, at: usize) -> Result<T, String>
where
    R: Row,
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database>,
{
    row.try_get_unchecked(at).map_err(|_| "that its values do not keep to".to_owned())
}

/// JSON has no NaN and no infinities.
fn double(number: Result<f64, String>) -> Read {
    Number::from_f64(number?).map(Value::Number).ok_or_else(|| "not a number".to_owned())
}

/// As it would be written, and not with the digits that the wider type makes up.
fn single(number: Result<f32, String>) -> Read {
    double(number.map(|number| number.to_string().parse().unwrap_or(f64::NAN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_uuids_are_written_as_people_write_them() {
        assert_eq!(single(Ok(0.1)), Ok(Value::from(0.1)));
        assert!(double(Ok(f64::NAN)).is_err() && single(Ok(f32::INFINITY)).is_err());
        let bytes = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes();
        assert_eq!(uuid(bytes), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(uuid([0; 16]), "00000000-0000-0000-0000-000000000000");
    }
}
