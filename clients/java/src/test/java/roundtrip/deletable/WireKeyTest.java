package roundtrip.deletable;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Optional;
import java.util.Random;
import org.junit.jupiter.api.Test;

class WireKeyTest {
    static final String GUID = "01a21ade-b982-7135-90af-3503dff3d7e4";

    @Test
    void aGuidIsAUuidInLowerCase() {
        assertTrue(WireKey.isGuid(GUID));
        assertTrue(WireKey.isGuid(WireKey.newGuid()));
        for (String other : List.of("", GUID.toUpperCase(), GUID + "5", GUID.replace('-', '_'), "g" + GUID.substring(1))) {
            assertFalse(WireKey.isGuid(other), other);
        }
        assertThrows(IllegalArgumentException.class, () -> WireKey.of("k", GUID.toUpperCase()));
    }

    @Test
    void whatEndsWithNoGuidIsAllKey() {
        for (String key : List.of("", "k", "#", GUID, "k/" + GUID, "k#" + GUID + "x")) {
            assertEquals(Optional.empty(), WireKey.split(key), key);
            assertTrue(WireKey.split(key.getBytes()).isEmpty(), key);
        }
    }

    @Test
    void aKeyComesBackWhateverIsInIt() {
        Random random = new Random(1);
        for (int round = 0; round < 1000; round++) {
            byte[] key = new byte[random.nextInt(60)];
            random.nextBytes(key);
            WireKey<byte[]> split = WireKey.split(WireKey.of(key, GUID)).orElseThrow();
            assertArrayEquals(key, split.key());
            assertEquals(GUID, split.guid());
        }
        for (String key : List.of("", "a#b", "é/\u0000", "k#" + GUID)) {
            assertEquals(Optional.of(new WireKey<>(key, GUID)), WireKey.split(WireKey.of(key, GUID)));
        }
    }
}
