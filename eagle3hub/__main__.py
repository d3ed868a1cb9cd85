"""``python -m eagle3hub``"""

from eagle3hub.cli.app import main

main()
