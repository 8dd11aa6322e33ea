package roundtrip.deletable;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Optional;
import java.util.UUID;

/**
 * A key as it is in a topic of which single messages can be deleted: {@code <key>#<guid>}.
 *
 * <p>The GUID is a UUID of 36 ASCII characters in lower case. It tells apart the messages of one key; a
 * record with the same wire key and a null value deletes one of them. A key may contain {@code #}: the last
 * 37 bytes count.
 *
 * @param key what the writer means
 * @param guid what its deletion needs beside it
 * @param <K> {@code String} or {@code byte[]}
 */
public record WireKey<K>(K key, String guid) {
    /** Bytes of a wire key that are not its key: {@code #} and the GUID. */
    public static final int SUFFIX_BYTES = 37;

    /** A GUID that no message has yet. */
    public static String newGuid() {
        return UUID.randomUUID().toString();
    }

    /** The wire key of a message, for who wants to know its GUID before it is sent. */
    public static String of(String key, String guid) {
        return key + "#" + checked(guid);
    }

    /** The wire key of a message, for who wants to know its GUID before it is sent. */
    public static byte[] of(byte[] key, String guid) {
        byte[] suffix = ("#" + checked(guid)).getBytes(StandardCharsets.US_ASCII);
        byte[] wire = Arrays.copyOf(key, key.length + SUFFIX_BYTES);
        System.arraycopy(suffix, 0, wire, key.length, SUFFIX_BYTES);
        return wire;
    }

    /** Key and GUID of a wire key; empty if it ends with no GUID. */
    public static Optional<WireKey<String>> split(String wire) {
        int at = wire.length() - SUFFIX_BYTES;
        if (at < 0 || wire.charAt(at) != '#' || !isGuid(wire.substring(at + 1))) {
            return Optional.empty();
        }
        return Optional.of(new WireKey<>(wire.substring(0, at), wire.substring(at + 1)));
    }

    /** Key and GUID of a wire key; empty if it ends with no GUID. */
    public static Optional<WireKey<byte[]>> split(byte[] wire) {
        int at = wire.length - SUFFIX_BYTES;
        if (at < 0) {
            return Optional.empty();
        }
        // What is no ASCII becomes a character that no GUID has.
        String suffix = new String(wire, at, SUFFIX_BYTES, StandardCharsets.US_ASCII);
        return split(suffix).map(found -> new WireKey<>(Arrays.copyOf(wire, at), found.guid()));
    }

    /** Whether this is a GUID. */
    public static boolean isGuid(String text) {
        if (text.length() != SUFFIX_BYTES - 1) {
            return false;
        }
        for (int at = 0; at < text.length(); at++) {
            char c = text.charAt(at);
            boolean isHyphenPlace = at == 8 || at == 13 || at == 18 || at == 23;
            boolean isDigit = c >= '0' && c <= '9' || c >= 'a' && c <= 'f';
            if (isHyphenPlace ? c != '-' : !isDigit) {
                return false;
            }
        }
        return true;
    }

    private static String checked(String guid) {
        if (!isGuid(guid)) {
            throw new IllegalArgumentException("a GUID is a UUID in lower case: " + guid);
        }
        return guid;
    }
}
