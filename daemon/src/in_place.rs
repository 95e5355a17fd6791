//! Futures that are made where they stay.

use std::pin::Pin;

/// A future on the heap. `Box::pin(future)` makes it on the stack and copies it, with all the room of its later states:
/// 7 KB for a request to the router. What `make` returns is written to the heap at once. No test can see the difference;
/// valgrind's `dhat --mode=copy` does.
pub fn in_place<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_made_in_place_goes_through_all_its_states() {
        let text = String::from("and on");
        let future = in_place(|| async move {
            let kept = [7_u8; 4096];
            tokio::task::yield_now().await;
            (text, kept.iter().map(|&byte| u32::from(byte)).sum::<u32>())
        });
        assert_eq!(future.await, ("and on".to_owned(), 7 * 4096));
    }
}
