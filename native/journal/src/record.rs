//! Records as they lie in a segment.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The tag of a record that says nothing: room that was taken and not needed. No caller may use it.
pub const FILLER: Tag = [0; 3];

/// Bytes before the words.
const HEAD: usize = 8;

/// Most words of a record.
pub const MAX_WORDS: usize = 15;

/// What the caller has to say about the words.
pub type Tag = [u8; 3];

/// Bytes of a record with so many words.
#[inline]
pub const fn size(words: usize) -> usize {
    HEAD + 8 * words
}

/// The first 8 bytes, for the segment with this number.
///
/// # Panics
///
/// If the words are more than [`MAX_WORDS`].
#[inline]
pub(crate) fn head(sequence: u64, tag: Tag, words: &[u64]) -> u64 {
    let [a, b, c] = tag;
    let said = u64::from_le_bytes([0, 0, 0, 0, words.len() as u8, a, b, c]);
    let mut bytes = [0; size(MAX_WORDS)];
    let (first, rest) = bytes.split_at_mut(HEAD);
    first.copy_from_slice(&said.to_le_bytes());
    let (places, _) = rest.as_chunks_mut::<8>();
    for (place, word) in places[..words.len()].iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    let sum = xxh3_64_with_seed(&bytes[..size(words.len())], sequence) as u32;
    // Never 0, which is what is where nothing was written.
    said | u64::from(sum.max(1))
}

/// The whole record at the start of `from`, in the segment with this number, if there is one.
pub(crate) fn read(sequence: u64, from: &[u8]) -> Option<(Tag, usize, [u64; MAX_WORDS])> {
    let (head, rest) = from.split_first_chunk::<HEAD>()?;
    let [_, _, _, _, count, a, b, c] = *head;
    let count = usize::from(count);
    if head[..4] == [0; 4] || count > MAX_WORDS {
        return None;
    }
    let (chunks, _) = rest.get(..8 * count)?.as_chunks::<8>();
    let mut words = [0; MAX_WORDS];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    let tag = [a, b, c];
    let right = self::head(sequence, tag, &words[..count]) == u64::from_le_bytes(*head);
    right.then_some((tag, count, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_is_read_back_and_not_if_a_bit_is_flipped(
            sequence in any::<u64>(),
            tag in any::<[u8; 3]>(),
            words in prop::collection::vec(any::<u64>(), 0..=MAX_WORDS),
            flipped in any::<prop::sample::Index>(),
        ) {
            let mut bytes = head(sequence, tag, &words).to_le_bytes().to_vec();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            prop_assert_eq!(bytes.len(), size(words.len()));
            let (read_tag, count, read_words) = read(sequence, &bytes).unwrap();
            prop_assert_eq!((read_tag, &read_words[..count]), (tag, &words[..]));
            prop_assert_eq!(read(sequence ^ 1, &bytes), None);
            prop_assert_eq!(read(sequence, &bytes[..bytes.len() - 1]), None);
            let bit = flipped.index(8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(sequence, &bytes), None);
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert_eq!(read(0, &[0; 64]), None);
    }
}
