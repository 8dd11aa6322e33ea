package roundtrip.deletable;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.stream.IntStream;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.InvalidRecordException;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.PartitionInfo;
import org.junit.jupiter.api.Test;

class GuidPartitionerTest {
    private static final byte[] VALUE = {1};

    private static int partition(byte[] key, byte[] value, int partitions) {
        Node node = new Node(1, "host", 9092);
        Node[] nodes = {node};
        List<PartitionInfo> infos = IntStream.range(0, partitions)
                .mapToObj(number -> new PartitionInfo("t", number, node, nodes, nodes))
                .toList();
        Cluster cluster = new Cluster("c", List.of(node), infos, Set.of(), Set.of());
        try (GuidPartitioner partitioner = new GuidPartitioner()) {
            return partitioner.partition("t", null, key, null, value, cluster);
        }
    }

    @Test
    void aKeyGoesWhereTheDefaultPartitionerPutsIt() {
        Random random = new Random(2);
        for (int round = 0; round < 1000; round++) {
            byte[] key = new byte[random.nextInt(60)];
            random.nextBytes(key);
            int partitions = 1 + random.nextInt(100);
            int expected = BuiltInPartitioner.partitionForKey(key, partitions);
            byte[] wire = WireKey.of(key, WireKey.newGuid());
            assertEquals(expected, partition(wire, VALUE, partitions));
            assertEquals(expected, partition(wire, null, partitions), "of its deletion, too");
            assertEquals(expected, partition(key, VALUE, partitions), "without a GUID, too");
        }
    }

    @Test
    void whatWouldDeleteNothingIsRefused() {
        assertThrows(InvalidRecordException.class, () -> partition(new byte[] {1}, null, 3));
        assertThrows(InvalidRecordException.class, () -> partition(null, VALUE, 3));
    }
}
