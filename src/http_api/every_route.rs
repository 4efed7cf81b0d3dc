//! What every route may answer besides its own, added to the OpenAPI document in one place: the answers
//! of the middleware.

use utoipa::openapi::path::Operation;
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

/// Adds 401, 403, 429, 431 and 503 where a route does not describe them itself.
pub fn document(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let methods = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete, &mut item.put];
        for operation in methods.into_iter().flatten() {
            // `security(())`: the route asks nobody who he is.
            let authenticated = operation.security.is_none();
            if authenticated {
                add(operation, "401", "neither a known key nor a valid token");
                add(operation, "403", "the key or the account may not do this");
            }
            if !path.starts_with("/health") {
                add(operation, "429", "over the limit of this caller; see Retry-After");
                add(
                    operation,
                    "503",
                    "something this needs is away, or it took longer than 30 s; see Retry-After",
                );
            }
            add(operation, "431", "the headers are larger than 16 KiB");
        }
    }
}

fn add(operation: &mut Operation, status: &str, description: &str) {
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let response = ResponseBuilder::new().description(description).content("application/json", error).build();
    operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(response));
}
