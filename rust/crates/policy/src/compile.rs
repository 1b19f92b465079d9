//! From the normalised document to a snapshot.
use crate::problem::Problem;

/// Compiles a normalised policy document.
///
/// # Errors
/// All problems of the policy at once.
pub fn compile(document: &[u8]) -> Result<Vec<u8>, Vec<Problem>> {
    let _ = document;
    Err(Vec::new())
}
